"""Qwen3.5 and Qwen3-Next, tiny and random: transformers' own numbers, mixed adapters, forked beginnings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from sparta_lite.engine import score
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.hybrid import HybridDecoder
from sparta_lite.engine.packing import Row, lay_out
from sparta_lite.engine.peft_io import copy_weights, load_bank, new_adapter, read_adapter, write_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.step import Steps
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import DpoSettings, backward
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair

from .families import family
from .models import save_model

CPU = torch.device("cpu")
NAMES = ("four", "eight")
TOKENS = ScoreTokens(prefix=(91, 5, 32), digits=(17, 18, 19, 20, 21, 22, 23, 24, 25), ten=(17, 16))
L, F = "linear_attention", "full_attention"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "usual": ("qwen3_5_text", {}),
    "every second layer full, tied, kernel of 3": (
        "qwen3_5_text",
        {"layer_types": [L, F] * 2, "tie_word_embeddings": True, "linear_conv_kernel_dim": 3},
    ),
    "every third, one key head, all of a head rotated": (
        "qwen3_5_text",
        {
            "num_hidden_layers": 3,
            "layer_types": [L, L, F],
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
    ),
    "full layers first, as many value as key heads": (
        "qwen3_5_text",
        {"num_hidden_layers": 2, "layer_types": [F, L], "linear_num_key_heads": 4},
    ),
    "experts": ("qwen3_next", {"num_hidden_layers": 2, "layer_types": [L, F]}),
    "experts in some layers": (
        "qwen3_next",
        {"num_hidden_layers": 2, "layer_types": [L, F], "mlp_only_layers": [0], "linear_conv_kernel_dim": 3},
    ),
}


@dataclass(frozen=True)
class Tribe:
    """The same base and two adapters in our engine and in PEFT."""

    path: Path
    base: Base
    bank: Bank
    peft: PeftModel

    def logits(self, adapter: str | None, ids: Sequence[int]) -> Tensor:
        """transformers' of one sequence alone, [length, vocabulary]."""
        self.peft.set_adapter(adapter or NAMES[0])
        asked = torch.tensor([list(ids)])
        with torch.no_grad():
            if adapter is None:
                with self.peft.disable_adapter():
                    found: Tensor = self.peft(asked).logits[0]
            else:
                found = self.peft(asked).logits[0]
        return found


class Tribes:
    def __init__(self, root: Path, tokenizer_from: Path) -> None:
        self.root, self.tokenizer_from = root, tokenizer_from
        self.of = cache(self._make)

    def _make(self, shape: str) -> Tribe:
        name, changes = SHAPES[shape]
        path = save_model(
            family(name, **changes), self.root / str(len(list(self.root.iterdir()))), self.tokenizer_from
        )
        model: Any = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        targets: Any = "all-linear"
        if name == "qwen3_next":  # PEFT takes `gate_proj` and its kin there for those of the experts
            targets = r".*\.(q_proj|o_proj|in_proj_qkvz|in_proj_ba|out_proj|shared_expert_gate)"
        for rank, adapter in zip((4, 8), NAMES, strict=True):
            lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=16, target_modules=targets)
            if isinstance(model, PeftModel):
                model.add_adapter(adapter, lora)
            else:
                model = get_peft_model(model, lora, adapter_name=adapter)
        randomize(model)
        model.eval().save_pretrained(path / "adapters")
        base = load_base(path, CPU)
        bank = load_bank(base.decoder, [read_adapter(each, path / "adapters" / each) for each in NAMES])
        return Tribe(path, base, bank, model)


def randomize(model: torch.nn.Module) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.05)


@pytest.fixture(scope="module")
def tribes(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tribes:
    return Tribes(tmp_path_factory.mktemp("hybrids"), base_path)


@pytest.fixture
def usual(tribes: Tribes) -> Tribe:
    return tribes.of("usual")


def some_ids(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(4, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_greedy_answers_are_those_of_transformers(tribes: Tribes, shape: str) -> None:
    """Adapters and bare base in one batch, refilled places, prompts below and above a chunk of 64."""
    tribe = tribes.of(shape)
    assert isinstance(tribe.base.decoder, HybridDecoder)
    prompts = [some_ids(length, seed) for seed, length in enumerate((1, 130, 3, 70, 64, 20))]
    rows = [Prompt(name, ids) for ids in prompts for name in (*NAMES, None)]
    answers = generate(tribe.base, tribe.bank, rows, Sampling(temperature=0), 7, places=4)
    mixing = WholeSequences(tribe.base.decoder.mixers)
    for row, answer in zip(rows, answers, strict=True):
        expected = tribe.logits(row.adapter, [*row.ids, *answer.ids])
        assert expected[len(row.ids) - 1 : -1].argmax(-1).tolist() == list(answer.ids)
    ids = torch.tensor([some_ids(130), some_ids(130, 1)])
    with torch.no_grad():
        for name in (*NAMES, None):
            lora = tribe.bank.lora([name, name])
            hidden = tribe.base.decoder.hidden(ids, torch.arange(130).expand(2, -1), mixing, lora)
            found = tribe.base.decoder.logits(hidden)
            for row, expected in zip(found, (tribe.logits(name, each) for each in ids.tolist()), strict=True):
                torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


def test_the_whole_answer_is_that_of_generate(usual: Tribe) -> None:
    """transformers' own loop, over its own cache."""
    ids = some_ids(75)
    usual.peft.set_adapter("eight")
    with torch.no_grad():
        expected = usual.peft.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=None
        )
    base = Base(**{**vars(usual.base), "stops": frozenset()})
    others = [Prompt("four", some_ids(length, length)) for length in (90, 10)]
    (answer, *_) = generate(base, usual.bank, [Prompt("eight", ids), *others], Sampling(temperature=0), 40, 3)
    assert list(answer.ids) == expected[0, 75:].tolist()


@torch.no_grad()
def test_a_padded_prompt_leaves_the_state_that_it_leaves_alone(usual: Tribe) -> None:
    """It reads beside one of 100 tokens; then both go on from their places."""
    decoder, short, long = usual.base.decoder, some_ids(7), some_ids(100, 1)
    together, alone = Cache(decoder, 3, 120), Cache(decoder, 1, 120)
    sampling = Sampling(temperature=0)
    steps = Steps(decoder, usual.bank, together, sampling)
    single = Steps(decoder, usual.bank, alone, sampling)
    steps.begin([2, 0], [short, long], [1, 2], usual.bank.lora(["four", "eight"]))
    single.begin([0], [short], [1], usual.bank.lora(["four"]))
    for number, mixer in enumerate(decoder.mixers):
        if hasattr(mixer, "kernel"):
            found, expected = together.state(number), alone.state(number)
            torch.testing.assert_close(found.recurrent[2], expected.recurrent[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.convolution[2], expected.convolution[0], rtol=1e-4, atol=1e-5)
            assert not found.recurrent[1].any()  # nobody's place
    steps.move(2, 1, 7)
    drawn = [steps.advance(["eight", "four"], 108)[0, 1] for _ in range(6)]
    expected_tokens = [single.advance(["four"], 108)[0, 0] for _ in range(6)]
    assert drawn == expected_tokens


@pytest.mark.parametrize("shape", ["usual", "experts in some layers"])
def test_expected_scores_behind_a_forked_beginning(
    tribes: Tribes, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both answers of a duel behind their question, whose state is computed once."""
    tribe = tribes.of(shape)
    question = some_ids(66)
    prompts = [Prompt(name, question + some_ids(length, length)) for name in NAMES for length in (9, 20)]
    prompts += [Prompt("four", some_ids(40, 3))]
    shared: list[int] = []
    plain = score.share

    def share(*given: Any) -> Any:
        found = plain(*given)
        shared.extend(len(members) for members, _ in found)
        return found

    monkeypatch.setattr(score, "share", share)
    found = score.expected_scores(tribe.base, tribe.bank, prompts, TOKENS, 0.0, 400)
    assert sorted(shared) == [1, 2, 2]
    for prompt, each in zip(prompts, found, strict=True):
        logits = tribe.logits(prompt.adapter, [*prompt.ids, *TOKENS.prefix, TOKENS.digits[0]])
        first, second = logits[-2:].double().softmax(-1)
        ten = first[17] * second[16]
        chances = torch.stack([first[17] - ten, *first[18:26], ten])
        expected = float((chances * torch.arange(1, 11)).sum() / chances.sum())
        assert each.value == pytest.approx(expected, abs=1e-4)


def test_a_bank_sees_the_modules_that_peft_calls_all_linear(usual: Tribe) -> None:
    fresh = new_adapter("new", usual.base.decoder, 2, 4.0, 0, "base")
    asked = usual.peft.peft_config["four"].target_modules
    assert {target.rpartition(".")[2] for target in fresh.adapter.targets} == set(asked)
    adapted = {name for layer in usual.bank.names for site in layer.values() for name in site}
    assert {name.rpartition(".")[2] for name in adapted} == set(asked)


def test_projections_of_one_input_are_one_matrix(usual: Tribe) -> None:
    layer = usual.base.decoder.layers[0]
    site = layer.sites["in"]
    assert [name.rpartition("_")[2] for name in site.names] == ["qkv", "z", "b", "a"]
    assert site.whole is not None
    memory = site.whole.weight.untyped_storage().data_ptr()
    modules = usual.base.model.model.layers[0].linear_attn
    for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"):
        assert getattr(modules, name).weight.untyped_storage().data_ptr() == memory


PAIRS = [
    TokenizedPair(some_ids(70), (*some_ids(9, 1), 3), (*some_ids(5, 2), 3)),
    TokenizedPair(some_ids(5, 3), (3,), (*some_ids(67, 4), 3)),
    TokenizedPair(some_ids(2, 5), (11, 3), (3,)),
]


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("shape", ["usual", "every second layer full, tied, kernel of 3", "experts"])
def test_dpo_is_autograd_through_transformers_modules(tribes: Tribes, shape: str, checkpoint: bool) -> None:
    """Loss and gradients of pairs behind their one prompt, for both adapters at once."""
    tribe = tribes.of(shape)
    bank = trainable(tribe.bank)
    settings = DpoSettings(micro_batch=2, beta=0.5, sft_weight=0.3, checkpointing=checkpoint)
    reference = -torch.arange(12.0).view(2, 3, 2)
    measured = backward(tribe.base.decoder, bank, PAIRS, reference, settings, 0)
    for slot, name in enumerate(NAMES):
        tribe.peft.set_adapter(name)
        tribe.peft.zero_grad()
        parameters = dict(tribe.peft.named_parameters())
        for key, parameter in parameters.items():
            parameter.requires_grad_(f".{name}." in key)
        loss = torch.zeros(())
        tokens = sum(len(pair.chosen) for pair in PAIRS)
        for number, pair in enumerate(PAIRS):
            both = []
            for completion in pair.completions:
                ids = torch.tensor([[*pair.prompt, *completion]])
                logits = tribe.peft(ids).logits[0, len(pair.prompt) - 1 : -1].log_softmax(-1)
                both.append(logits[range(len(completion)), completion].sum())
            ratios = torch.stack(both) - reference[slot, number]
            loss = loss - torch.nn.functional.logsigmoid(0.5 * (ratios[0] - ratios[1])) / len(PAIRS)
            loss = loss - 0.3 * both[0] / tokens
        loss.backward()
        assert float(measured[0, slot]) == pytest.approx(loss.item(), rel=1e-4)
        seen = 0
        for number, layer in enumerate(bank.layers):
            for site, lora in layer.items():
                names = bank.names[number][site]
                rank = bank.adapters[slot].rank
                assert lora.a.grad is not None
                for part, module in enumerate(names):
                    b = lora.b[part].grad
                    assert b is not None
                    a = lora.a.grad[slot].chunk(len(names))[part]
                    for side, mine in (("A", a[:rank]), ("B", b[slot, :, :rank])):
                        key = f"base_model.model.model.layers.{number}.{module}.lora_{side}.{name}.weight"
                        if key not in parameters:
                            assert not mine.any()
                            continue
                        theirs = parameters[key].grad
                        assert theirs is not None
                        torch.testing.assert_close(
                            mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())
                        )
                        seen += 1
        assert seen == sum(f".{name}." in key for key in parameters)


def test_a_forked_row_and_two_plain_ones_learn_the_same(usual: Tribe) -> None:
    """Hidden states and the adapters' gradients, both tails of a row for two adapters."""
    bank = trainable(usual.bank)
    row = Row(some_ids(30), (some_ids(40, 1), some_ids(3, 2)))
    decoder = usual.base.decoder
    gradients, states = [], []
    for rows in ([row], [Row((), (row.shared + tail,)) for tail in row.tails]):
        for _, leaf in bank.tensors():
            leaf.grad = None
        layout = lay_out(rows)
        ids, positions = layout.ids.repeat(2, 1), layout.positions.repeat(2, 1)
        lora = bank.lora([name for name in NAMES for _ in rows])
        hidden = decoder.hidden(ids, positions, layout.mixing(decoder.mixers, 2), lora)
        hidden = hidden.view(2, len(rows), -1, hidden.shape[-1])
        at = [(0, 30 + 40 - 1), (0, 30 + 40 + 3 - 1)] if len(rows) == 1 else [(0, 69), (1, 32)]
        ends = torch.stack([hidden[:, place, index] for place, index in at], 1)
        ends.square().sum().backward()
        states.append(ends.detach())
        gradients.append([leaf.grad for _, leaf in bank.tensors()])
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.fixture(scope="module")
def seeing(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the hub has it: what sees, a draft head, and the decoder one level deeper."""
    path = tmp_path_factory.mktemp("seeing")
    save_model(family("qwen3_5_text", num_hidden_layers=2, layer_types=[L, F]), path, base_path)
    text = AutoModelForCausalLM.from_pretrained(path)
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }
    tokens = ("image", "video", "vision_start", "vision_end")
    special = {f"{each}_token_id": 310 + number for number, each in enumerate(tokens)}
    whole = Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text.config.to_dict(), vision_config=vision, **special)
    )
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.lm_head.load_state_dict(text.lm_head.state_dict())
    whole.save_pretrained(path)
    weights = load_file(path / "model.safetensors")
    assert any(key.startswith("model.visual.") for key in weights)
    assert any(key.startswith("model.language_model.") for key in weights)
    weights["mtp.fc.weight"] = torch.ones(4, 4)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    for name, cls in (("text", AutoModelForCausalLM), ("whole", Qwen3_5ForConditionalGeneration)):
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
        model = get_peft_model(cls.from_pretrained(path), lora)
        randomize(model)
        for key, parameter in model.named_parameters():
            if ".visual." in key and "lora_B" in key:  # no picture has ever trained it
                parameter.data.zero_()
        model.save_pretrained(path / name)
    return path


def test_the_language_model_of_a_model_that_sees_is_loaded_alone(seeing: Path) -> None:
    base = load_base(seeing, CPU)
    names = [name for name, _ in base.model.named_parameters()]
    assert not any("visual" in name or "mtp" in name for name in names)
    assert base.context == 256
    whole = Qwen3_5ForConditionalGeneration.from_pretrained(seeing).eval()
    ids = torch.tensor([some_ids(20)]) % 300
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        mixing = WholeSequences(base.decoder.mixers)
        hidden = base.decoder.hidden(ids, torch.arange(20)[None], mixing, None)
    torch.testing.assert_close(base.decoder.logits(hidden), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "whole", "whole, by a pattern"])
def test_adapters_of_either_class_come_in_and_go_out_as_the_base_loads(
    seeing: Path, tmp_path: Path, kind: str
) -> None:
    base = load_base(seeing, CPU)
    source = seeing / kind.partition(",")[0]
    file = read_adapter("one", source)
    if kind == "whole, by a pattern":
        settings = (source / "adapter_config.json").read_text()
        (tmp_path / "in").mkdir()
        pattern = '"target_modules": ".*language_model.*_proj.*"'
        found = settings[settings.index('"target_modules"') :]
        (tmp_path / "in" / "adapter_config.json").write_text(
            settings.replace(found[: found.index("]") + 1], pattern)
        )
        shutil.copy(source / "adapter_model.safetensors", tmp_path / "in")
        file = read_adapter("one", tmp_path / "in")
    bank = load_bank(base.decoder, [file])
    assert all(module.startswith("layers.") for module in file.weights)
    write_adapter(tmp_path / "out", bank, "one", file.config)
    copy_weights(source, tmp_path)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    copied = load_file(tmp_path / "adapter_model.safetensors")
    assert copied.keys() == written.keys()
    assert all(torch.equal(copied[key], each) for key, each in written.items())
    ids = torch.tensor([some_ids(20)]) % 300
    if kind == "text":
        before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(seeing), source).eval()
    else:
        whole = Qwen3_5ForConditionalGeneration.from_pretrained(seeing)
        before = PeftModel.from_pretrained(whole, source).eval()
    after = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(seeing), tmp_path / "out").eval()
    with torch.no_grad():
        hidden = base.decoder.hidden(
            ids, torch.arange(20)[None], WholeSequences(base.decoder.mixers), bank.lora(["one"])
        )
        found_logits = base.decoder.logits(hidden)
        for model in (before, after):
            torch.testing.assert_close(model(input_ids=ids).logits, found_logits, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_sees_is_refused(seeing: Path, tmp_path: Path) -> None:
    weights = load_file(seeing / "whole" / "adapter_model.safetensors")
    weights = {key: each + 0.1 for key, each in weights.items()}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((seeing / "whole" / "adapter_config.json").read_text())
    with pytest.raises(SpartaError, match="which sees; train the language model alone"):
        read_adapter("one", tmp_path)


def test_in_16_bits_the_state_is_kept_in_32(usual: Tribe) -> None:
    base = load_base(usual.path, CPU, torch.bfloat16)
    cache_ = Cache(base.decoder, 2, 20)
    assert cache_.state(0).recurrent.dtype == torch.float32
    assert cache_.state(0).convolution.dtype == torch.bfloat16
    answer = generate(base, usual.bank, [Prompt("four", some_ids(70))], Sampling(temperature=0), 5, 1)[0]
    single = usual.logits("four", [*some_ids(70), *answer.ids]).log_softmax(-1)[69:-1]
    assert (single.max(-1).values - single[range(len(answer.ids)), list(answer.ids)]).max() < 0.3
