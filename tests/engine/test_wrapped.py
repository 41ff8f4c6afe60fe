"""Architectures that we do not compute ourselves: transformers' own modules under our seams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GraniteConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from sparta_lite.engine.base import Quantization, Request, load_base
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.peft_io import load_bank, new_adapter, read_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.wrapped import WrappedDecoder
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import DpoSettings, backward
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair

from .families import family
from .kin import Kins
from .models import SIZES, save_model

CPU = torch.device("cpu")
CONFIGS: dict[str, tuple[PreTrainedConfig, list[str]]] = {
    "gemma": (GemmaConfig(**SIZES, head_dim=16), ["q_proj", "o_proj", "gate_proj", "down_proj"]),
    "phi": (PhiConfig(**SIZES, partial_rotary_factor=0.5), ["q_proj", "v_proj", "dense", "fc1", "fc2"]),
    "phi3": (Phi3Config(**SIZES), ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "qwen2 with gelu": (Qwen2Config(**SIZES, hidden_act="gelu"), ["q_proj", "up_proj", "down_proj"]),
}


@pytest.fixture(scope="module")
def paths(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Path]]]:
    """Per architecture the base and two adapters that PEFT made for it."""
    root = tmp_path_factory.mktemp("wrapped")
    found = {}
    for number, (name, (config, targets)) in enumerate(CONFIGS.items()):
        base = save_model(config, root / str(number), base_path)
        adapters = []
        for rank in (4, 8):
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(base),
                LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=16, target_modules=targets),
            )
            with torch.random.fork_rng():
                torch.manual_seed(rank)
                for key, parameter in model.named_parameters():
                    if "lora_" in key:
                        torch.nn.init.normal_(parameter, std=0.1)
            adapters.append(root / f"{number}-{rank}")
            model.save_pretrained(adapters[-1])
        found[name] = (base, adapters)
    return found


def reference(base: Path, adapter: Path) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    return PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_log_probabilities_and_greedy_answers_equal_peft(
    paths: dict[str, tuple[Path, list[Path]]], name: str
) -> None:
    base_at, adapters_at = paths[name]
    base = load_base(base_at, CPU)
    assert isinstance(base.decoder, WrappedDecoder)
    names = ["four", "eight"]
    bank = load_bank(base.decoder, [read_adapter(*each) for each in zip(names, adapters_at, strict=True)])
    prompts = [tuple(range(5, 5 + length)) for length in (4, 9, 6)]
    rows = [Prompt(adapter, ids) for ids in prompts for adapter in names]
    answers = generate(base, bank, rows, Sampling(temperature=0), 6, places=4)
    for adapter, at in zip(names, adapters_at, strict=True):
        model = reference(base_at, at)
        for ids in prompts:
            answer = answers[rows.index(Prompt(adapter, ids))].ids
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *answer]])).logits[0].log_softmax(-1)
            before = logits[len(ids) - 1 : -1]
            assert before.argmax(-1).tolist() == list(answer)
            (found,) = log_probabilities(base, bank, [Continuation(adapter, ids, answer)], 64)
            torch.testing.assert_close(found, before[range(len(answer)), answer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_peft(paths: dict[str, tuple[Path, list[Path]]], name: str, checkpoint: bool) -> None:
    base_at, adapters_at = paths[name]
    base = load_base(base_at, CPU)
    bank = trainable(load_bank(base.decoder, [read_adapter("one", adapters_at[0])]))
    ids = torch.arange(5, 25).view(2, 10)
    mixing = WholeSequences(base.decoder.mixers)
    hidden = base.decoder.hidden(
        ids, torch.arange(10).expand(2, -1), mixing, bank.lora(["one", "one"]), checkpoint=checkpoint
    )
    targets = ids[:, 1:].flatten()
    base.decoder.logprobs(hidden[:, :-1].flatten(0, 1), targets).sum().backward()

    model = reference(base_at, adapters_at[0])
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in key)
    logits = model(ids).logits[:, :-1].flatten(0, 1).log_softmax(-1)
    logits[range(len(targets)), targets].sum().backward()
    expected = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
    found = {
        f"{number}.{site}": (lora.a.grad, lora.b[0].grad)
        for number, layer in enumerate(bank.layers)
        for site, lora in layer.items()
    }
    assert len(expected) == 2 * len(found) > 0
    for key, (a, b) in found.items():
        for side, gradient in (("A", a), ("B", b)):
            theirs = expected[f"base_model.model.model.layers.{key}.lora_{side}.default.weight"]
            assert gradient is not None
            torch.testing.assert_close(gradient[0], theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_a_model_is_its_own_outside_of_our_passes(paths: dict[str, tuple[Path, list[Path]]]) -> None:
    """Its own forward, padding mask included, is untouched: trainers of others work on it."""
    base = load_base(paths["phi"][0], CPU)
    ids = torch.arange(5, 21).view(2, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    plain = AutoModelForCausalLM.from_pretrained(paths["phi"][0], attn_implementation="eager").eval()
    with torch.no_grad():
        found, expected = (model(ids, attention_mask=mask).logits for model in (base.model, plain))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)


def test_a_packed_pair_trains_on_it(paths: dict[str, tuple[Path, list[Path]]]) -> None:
    """The packed mask of DPO goes through the same seam: a pair's loss is that of two plain passes."""
    base = load_base(paths["phi"][0], CPU)
    bank = trainable(load_bank(base.decoder, [read_adapter("one", paths["phi"][1][0])]))
    pair = TokenizedPair((5, 6, 7), (8, 9, 3), (10, 3))
    measured = backward(base.decoder, bank, [pair], torch.zeros(1, 1, 2), DpoSettings(micro_batch=1), 0)
    asked = [Continuation("one", pair.prompt, ids) for ids in (pair.chosen, pair.rejected)]
    chosen, rejected = (float(each.sum()) for each in log_probabilities(base, bank, asked, 64))
    assert measured[3:, 0].tolist() == pytest.approx([chosen, rejected], rel=1e-5)


def load_changed(path: Path, change: Callable[[Any], None]) -> None:
    """A base whose modules do something else than its family."""

    def loader(request: Request) -> Any:
        model = AutoModelForCausalLM.from_pretrained(request.path, attn_implementation="sdpa")
        change(model)
        return model

    load_base(path, CPU, loader=loader)


def look_further(model: Any) -> None:
    """What flash-attention would be told of a window is not what the masks of the others say."""
    model.model.layers[0].self_attn.sliding_window = 6


def hide_the_window(model: Any) -> None:
    model.model.layers[0].self_attn.sliding_window = None


def mix_neighbours(model: Any) -> None:
    """A layer that reaches to the token before, as a short convolution does."""
    model.model.layers[1].mlp.register_forward_hook(
        lambda module, given, output: output + output.roll(1, dims=1)
    )


def forget_the_far(model: Any) -> None:
    """Only behind the window does it compute otherwise."""

    def hook(module: Any, given: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :9], -output[:, 9:]], dim=1)

    model.model.layers[1].mlp.register_forward_hook(hook)


def attend_twice(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda **given: (forward(**given), forward(**given))[0]


def attend_with_more(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    attention.forward = partial(attention.forward, position_bias=torch.zeros(1))


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "the masks say another window": (look_further, "layer 0 .* looks at other tokens than the newest 6"),
    "only the masks say a window": (hide_the_window, "layer 0 .* looks at other tokens than the newest ones"),
    "a token's neighbour": (mix_neighbours, "computes its logits in a way that is not supported"),
    "what is far": (forget_the_far, "computes its logits in a way that is not supported"),
    "two attentions in one layer": (attend_twice, "layer 0 of 'olmo3' attends more than once"),
    "a bias on the scores": (attend_with_more, "attention with position_bias is not supported"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_would_be_computed_otherwise_is_refused(base_path: Path, tmp_path: Path, name: str) -> None:
    change, reason = CHANGES[name]
    path = save_model(family("olmo3"), tmp_path, base_path)
    load_changed(path, lambda model: None)
    with pytest.raises(SpartaError, match=reason) as caught:
        load_changed(path, change)
    assert "use another base, such as Qwen/Qwen3-8B" in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "gpt_oss", "qwen3_moe"])
def test_roundings_are_no_reason_to_refuse(
    base_path: Path, tmp_path: Path, name: str, quantization: Quantization
) -> None:
    """Even where they send a token to another expert."""
    path = save_model(family(name), tmp_path, base_path)
    base = load_base(path, CPU, torch.bfloat16, quantization)
    bank = load_bank(base.decoder, [new_adapter("new", base.decoder, 4, 8.0, seed=1, base="")])
    asked = [Prompt("new", tuple(range(5, 5 + length))) for length in (3, 70)]
    answers = generate(base, bank, asked, Sampling(temperature=0), 4, places=2)
    assert all(answer.ids for answer in answers)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "gpt_oss"])
def test_a_model_of_windows_is_its_own_outside_of_our_passes(kins: Kins, name: str) -> None:
    """With a padding mask, too, longer than the window, capped and with sinks; and when it generates."""
    kin = kins(name)
    ids = torch.arange(5, 29).view(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad(), kin.peft.disable_adapter():
        found, expected = (model(ids, attention_mask=mask).logits for model in (kin.base.model, kin.peft))
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
        answers = [
            model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
            for model in (kin.base.model, kin.peft)
        ]
    assert torch.equal(*answers)


def test_attention_scales_as_the_model_says(base_path: Path, tmp_path: Path) -> None:
    """Granite multiplies by a number of its own instead of 1 / sqrt(head_dim)."""
    settings: dict[str, Any] = {**SIZES, "attention_multiplier": 0.5, "residual_multiplier": 0.7}
    base = load_base(save_model(GraniteConfig(**settings), tmp_path, base_path), CPU)
    ids = torch.arange(5, 20)[None]
    hidden = base.decoder.hidden(ids, torch.arange(15)[None], WholeSequences(base.decoder.mixers), None)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")(ids).logits
    torch.testing.assert_close(base.decoder.logits(hidden), expected, rtol=1e-4, atol=1e-4)
