"""The resident base: what is refused, what is shared, and transformers' own numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
)

from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.mixing import attention_spec
from sparta_lite.engine.model import FusedDecoder
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.errors import SpartaError
from sparta_lite.kernels import product

from .models import SIZES, save_model

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen2 tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with yarn": Qwen2Config(**SIZES, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "qwen3 tied, biased": Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True, attention_bias=True),
    "llama": LlamaConfig(**SIZES),
    "llama tied, biased": LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama with llama3 positions": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama without grouped heads": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral tied": MistralConfig(**SIZES, sliding_window=None, head_dim=12, tie_word_embeddings=True),
}


@pytest.fixture(scope="module")
def models(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: save_model(config, root / str(number), base_path)
        for number, (name, config) in enumerate(CONFIGS.items())
    }


@pytest.mark.parametrize("trusted", [True, False])
def test_code_is_downloaded_only_where_it_is_trusted(
    base_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    asked: list[str] = []

    def download(repository: str, patterns: Sequence[str]) -> Path:
        asked.extend(patterns)
        return base_path

    monkeypatch.setattr("sparta_lite.engine.hub.download", download)
    load_base("some/model", CPU, trust_remote_code=trusted)
    assert ("*.py" in asked) is trusted


def test_a_forward_pass_needs_one_device_alone() -> None:
    """Unsloth leaves the rotary frequencies on the CPU whatever the model's device."""
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
        ids, positions = torch.zeros(2, 5, dtype=torch.int64), torch.arange(5).expand(2, 5)
    model.model.rotary_emb.inv_freq = torch.ones(SIZES["hidden_size"] // SIZES["num_attention_heads"] // 2)
    decoder = FusedDecoder(model)
    assert decoder.hidden(ids, positions, WholeSequences(decoder.mixers), None).device.type == "meta"


@pytest.fixture(params=["MKL", "oneDNN"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes the products, for matrices of any size."""
    monkeypatch.setattr(product, "onednn_is_faster", lambda: request.param == "oneDNN")
    monkeypatch.setattr(product, "_LEAST", 0)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_and_logits_equal_transformers(models: dict[str, Path], name: str) -> None:
    base = load_base(models[name], CPU)
    reference = AutoModelForCausalLM.from_pretrained(models[name], attn_implementation="eager").eval()
    ids = torch.randint(320, (3, 100), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = reference(ids, output_hidden_states=True)
        mixing = WholeSequences(base.decoder.mixers)
        hidden = base.decoder.hidden(ids, torch.arange(100).expand(3, -1), mixing, None)
        again = base.model(ids).logits
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(base.decoder.logits(hidden), expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected.logits, rtol=1e-5, atol=1e-5)


def memory(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of every storage that stands behind the tensors."""
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_exist_once(models: dict[str, Path], name: str) -> None:
    base = load_base(models[name], CPU)
    assert isinstance(base.decoder, FusedDecoder)
    decoder, ours = base.decoder, [base.decoder.embedding, base.decoder.head, base.decoder.norm]
    for number, layer in enumerate(decoder.layers):
        ours += [layer.attention_norm, layer.mlp_norm]
        ours += [norm for norm in (layer.q_norm, layer.k_norm) if norm is not None]
        for site in layer.sites.values():
            whole = site.whole
            assert whole is not None
            ours += [whole.weight] if whole.bias is None else [whole.weight, whole.bias]
            start = 0
            for module, width in zip(site.names, site.widths, strict=True):
                linear = base.model.model.layers[number].get_submodule(module)
                assert linear.weight.data_ptr() == whole.weight[start].data_ptr()
                assert linear.weight.shape == (width, site.inputs) == (width, whole.weight.shape[1])
                start += width
    theirs = list(base.model.parameters())
    assert memory(ours) == memory(theirs)
    stored = load_file(models[name] / WEIGHTS).values()
    assert sum(memory(ours).values()) == sum(each.nbytes for each in stored)
    assert (decoder.head.data_ptr() == decoder.embedding.data_ptr()) == ("tied" in name)
    assert not any(each.requires_grad for each in theirs)


def test_a_base_in_bf16_is_kept_in_bf16(base_path: Path) -> None:
    base = load_base(base_path, CPU, torch.bfloat16)
    assert {each.dtype for each in base.model.parameters()} == {torch.bfloat16}
    ids = torch.arange(40)[None]
    hidden = base.decoder.hidden(ids, ids, WholeSequences(base.decoder.mixers), None)
    assert hidden.dtype == torch.bfloat16
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)(ids).logits
    found = base.decoder.logits(hidden).float()
    assert (found.log_softmax(-1) - expected.log_softmax(-1)).abs().mean() < 0.05


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        config = json.loads((path / file).read_text()) if (path / file).exists() else {}
        (path / file).write_text(json.dumps({**config, **changes}))

    return apply


def alter(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path / WEIGHTS)
        change(tensors)
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})

    return apply


def only_pickle(path: Path) -> None:
    torch.save(load_file(path / WEIGHTS), path / "pytorch_model.bin")
    (path / WEIGHTS).unlink()


def no_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()


def no_tokenizer(path: Path) -> None:
    for file in path.glob("token*"):
        file.unlink()


def more_tokens(path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([f"<{number}>" for number in range(320)])
    tokenizer.save_pretrained(path)


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "neither a directory nor the id of a hub repository"),
    "no configuration": (lambda path: (path / "config.json").unlink(), "is not a model directory"),
    "broken configuration": (lambda path: (path / "config.json").write_text("{"), "cannot be loaded"),
    "nonsense in the configuration": (edit("config.json", hidden_size="wide"), "cannot be loaded"),
    "a configuration that is a list": (
        lambda path: (path / "config.json").write_text("[]"),
        "cannot be loaded",
    ),
    "no heads": (edit("config.json", num_attention_heads=0), "cannot be loaded"),
    "a tokenizer of a larger model": (
        more_tokens,
        "the tokenizer has ids up to .*, the model 320 embeddings",
    ),
    "unknown model": (edit("config.json", model_type="brontosaurus"), "cannot be loaded.*brontosaurus"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), "cannot be loaded.*model.safetensors"),
    "pickle only": (only_pickle, "cannot be loaded.*model.safetensors"),
    "torn weights": (lambda path: (path / WEIGHTS).write_bytes(b"\x10\0\0\0"), "cannot be loaded"),
    "a missing weight": (alter(lambda all: all.pop(UP)), f"lacks weights.*{UP}"),
    "a weight of another shape": (
        alter(lambda all: all.update({UP: torch.ones(3, 3)})),
        f"another shape: {UP}; get a sound copy",
    ),
    "NaN": (alter(lambda all: all[UP][0, 0].fill_(torch.nan)), f"the weight {UP} holds NaN or infinity"),
    "infinity": (alter(lambda all: all[UP][0, 0].fill_(torch.inf)), f"the weight {UP} holds NaN or infinity"),
    "no chat template": (no_template, "the tokenizer has no chat template"),
    "no tokenizer": (no_tokenizer, "the tokenizer's files are missing"),
    "layers of an unknown kind": (
        edit("config.json", layer_types=["full_attention", "chunked_attention"]),
        "has layers of the kind chunked_attention",
    ),
    "quantised in another way": (
        edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantised in a way that is not supported \(gptq\)",
    ),
    "positions that depend on the length": (
        edit("config.json", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "rotary positions of type 'dynamic', which change with the length",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_base_that_cannot_serve_is_refused_with_its_reason(
    base_path: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "base"
    shutil.copytree(base_path, path)
    load_base(path, CPU)
    harm, reason = DAMAGES[damage]
    harm(path)
    with pytest.raises(SpartaError, match=reason) as caught:
        load_base(path, CPU)
    assert "\n" not in str(caught.value)


def test_a_sliding_window_wider_than_the_context_is_none(base_path: Path, tmp_path: Path) -> None:
    path = save_model(MistralConfig(**SIZES, sliding_window=256), tmp_path, base_path)
    base = load_base(path, CPU)
    assert base.context == 256
    assert [attention_spec(mixer).window for mixer in base.decoder.mixers] == [None, None]


def test_another_architecture_is_refused(base_path: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=3)
    path = save_model(config, tmp_path, base_path)
    with pytest.raises(SpartaError, match=r"'gpt2' has no `model\.layers`"):
        load_base(path, CPU)


def test_every_end_of_turn_token_of_the_generation_config_stops(base_path: Path, tmp_path: Path) -> None:
    shutil.copytree(base_path, tmp_path / "base")
    edit("generation_config.json", eos_token_id=[17, 42])(tmp_path / "base")
    base = load_base(tmp_path / "base", CPU)
    assert base.stops == {17, 42, base.tokenizer.eos_token_id}


def test_a_base_for_which_nothing_ends_a_turn_is_refused(base_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "base"
    shutil.copytree(base_path, path)
    for file in ("generation_config.json", "config.json", "tokenizer_config.json"):
        edit(file, eos_token_id=None, eos_token=None)(path)
    assert (
        load_base(path, CPU).notices[0].startswith("base: its chat template ends an answer with <|im_end|>")
    )
    (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(SpartaError, match="names an end-of-turn token"):
        load_base(path, CPU)


def test_the_context_is_the_models_own(base: Base) -> None:
    assert base.context == 512
