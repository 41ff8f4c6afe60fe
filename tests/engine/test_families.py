"""Every family of models that is taken, against transformers' own modules: generation, judging, training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.packing import share
from sparta_lite.engine.peft_io import load_bank, new_adapter, write_adapter
from sparta_lite.engine.phases import cache_bytes
from sparta_lite.engine.score import Span, expected_scores
from sparta_lite.engine.shape import adapter_parameters, read_shape
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import backward, train
from sparta_lite.training.optim import cosine, trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, batches

from .families import FAMILIES, ODD
from .kin import RANKS, Kin, Kins

NAMES = list(RANKS.values())
TOKENS = ScoreTokens(prefix=(91, 5, 32), digits=tuple(range(17, 26)), ten=(17, 16))
BETA, SFT = 0.3, 0.5

CONFIGS = [*FAMILIES, *ODD]


def text(length: int, seed: int) -> tuple[int, ...]:
    dice = random.Random(seed)
    return tuple(dice.randrange(4, 256) for _ in range(length))


def pairs() -> list[TokenizedPair]:
    """Prompts shorter and longer than any window, completions alike."""
    lengths = [(2, 3, 9), (12, 1, 4), (70, 20, 3), (5, 30, 8)]
    return [
        TokenizedPair(*(text(length, 10 * number + part) for part, length in enumerate(each)))
        for number, each in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_transformers(kins: Kins, name: str) -> None:
    """Alone, beside rows of other adapters, in places that others left; behind short and long prompts."""
    kin = kins(name)
    lengths = [(1, "four"), (4, None), (9, "eight"), (70, "four"), (101, "eight"), (66, None), (3, "eight")]
    prompts = [Prompt(adapter, text(length, length)) for length, adapter in lengths]
    greedy, most = Sampling(temperature=0), 7
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids])
        with kin.under(prompt.adapter) as model:
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False
            )
        expected.append(tuple(out[0, len(prompt.ids) :].tolist()))
    for places in (1, 2, len(prompts)):
        found = generate(kin.base, kin.bank, prompts, greedy, most, places)
        assert [each.ids for each in found] == expected


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "gpt_oss"])
def test_rings_move_with_their_rows(kins: Kins, name: str) -> None:
    """Rows end at every moment, before and after their ring is full; others move into their places."""
    kin, dice = kins(name), random.Random(3)
    prompts = [
        Prompt(dice.choice([*NAMES, None]), text(dice.choice([1, 2, 4, 5, 6, 30]), number), number)
        for number in range(18)
    ]
    stopping = replace(kin.base, stops=frozenset(range(0, 320, 7)))
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    alone = [generate(stopping, kin.bank, [prompt], sampling, 15, 1)[0] for prompt in prompts]
    assert len({len(response.ids) for response in alone}) > 5
    for places in (3, 18):
        assert generate(stopping, kin.bank, prompts, sampling, 15, places) == alone


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_knows_its_cache_and_its_adapters(kins: Kins, name: str) -> None:
    kin = kins(name)
    shape = read_shape(Path(kin.base.name))
    for length in (3, 100):
        cache = Cache(kin.base.decoder, 2, length)
        allocated = sum(each.nbytes for layer in cache.layers for each in vars(layer).values())
        assert allocated == 2 * cache_bytes(shape, 4, length)
    bank = load_bank(kin.base.decoder, [new_adapter("new", kin.base.decoder, 3, 6.0, seed=1, base="base")])
    assert sum(tensor.numel() for _, tensor in bank.tensors()) == adapter_parameters(
        shape, [(3, "all-linear")]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_expected_scores_are_those_of_transformers_logits(kins: Kins, name: str) -> None:
    """Two prompts that begin alike stand in one row, and a tail's window reaches back over the beginning."""
    kin = kins(name)
    prompts: list[Prompt] = []
    spans: list[Span | None] = []
    for number, (shared, one, other) in enumerate([(30, 3, 12), (75, 9, 2), (2, 3, 4)]):
        for tail in (one, other):
            ids = text(shared, number) + text(tail, 100 * number + tail)
            prompts += [Prompt(adapter, ids) for adapter in (*NAMES, None)]
            spans += [(shared, len(ids)), None, (1, len(ids))]
    read = [(each.adapter, each.ids) for each in prompts]
    assert any(len(members) == 2 for members, _ in share(kin.base.decoder, read, 300))
    found = expected_scores(kin.base, kin.bank, prompts, TOKENS, 0, 300, responses=spans)
    for prompt, span, score in zip(prompts, spans, found, strict=True):
        ids = (*prompt.ids, *TOKENS.prefix, TOKENS.digits[0])
        with torch.no_grad():
            logprobs = kin.logits(prompt.adapter, ids).double().log_softmax(-1)
        chances = logprobs[-2, list(TOKENS.digits)].exp()
        ten = chances[0] * logprobs[-1, TOKENS.ten[1]].exp()
        chances = torch.cat([chances[:1] - ten, chances[1:], ten[None]])
        value = (chances * torch.arange(1, 11)).sum() / chances.sum()
        assert score.value == pytest.approx(float(value), abs=1e-4)
        assert score.mass == pytest.approx(float(chances.sum()), rel=1e-4)
        if span is not None:
            first, last = span
            response = logprobs[range(first - 1, last - 1), ids[first:last]].sum()
            assert score.logprob == pytest.approx(float(response), rel=1e-5, abs=1e-4)


def logprobs(kin: Kin, adapter: str, pair: TokenizedPair) -> Tensor:
    """log p of both completions, [2], every sequence alone in transformers' modules and PEFT's."""
    found = []
    for completion in pair.completions:
        table = kin.logits(adapter, pair.prompt + completion).log_softmax(-1)
        before = range(len(pair.prompt) - 1, len(pair.prompt) + len(completion) - 1)
        found.append(table[before, completion].sum())
    return torch.stack(found)


def loss_of(kin: Kin, adapter: str, batch: Sequence[TokenizedPair], reference: Tensor) -> Tensor:
    """DPO's loss with a likelihood term; ``reference`` [pairs, 2]."""
    found = torch.stack([logprobs(kin, adapter, pair) for pair in batch])
    margins = BETA * ((found[:, 0] - reference[:, 0]) - (found[:, 1] - reference[:, 1]))
    likelihood = found[:, 0].sum() / sum(len(pair.chosen) for pair in batch)
    return -F.logsigmoid(margins).mean() - SFT * likelihood


def theirs(kin: Kin, adapter: str) -> dict[str, Tensor]:
    """PEFT's parameters by module and side, such as ``layers.0.mlp.up_proj.A``."""
    kin.peft.set_adapter(adapter)
    found = {}
    for key, parameter in kin.peft.named_parameters():
        module, _, side = key.partition(".lora_")
        if side.endswith(f".{adapter}.weight"):
            found[f"{module.removeprefix('base_model.model.model.')}.{side[0]}"] = parameter
    return found


def ours(bank: Bank, adapter: str) -> dict[str, Tensor]:
    """The same of the bank."""
    return {
        f"{module}.{side}": tensor
        for module, a, b in bank.modules(bank.slot(adapter))
        for side, tensor in (("A", a), ("B", b))
    }


def apart(one: dict[str, Tensor], other: dict[str, Tensor] | None = None) -> float:
    """The distance of two sets of tensors, or the length of one."""
    assert other is None or one.keys() == other.keys()
    squares = [(one[key] - other[key] if other else one[key]).detach().square().sum() for key in one]
    return float(sum(squares)) ** 0.5


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_are_autograds(kins: Kins, name: str, checkpointing: bool) -> None:
    kin, batch = kins(name), pairs()
    leaves = trainable(kin.bank)
    reference = torch.linspace(-60, -20, 2 * len(batch) * 2).view(2, len(batch), 2)
    settings = DpoSettings(beta=BETA, sft_weight=SFT, micro_batch=3, checkpointing=checkpointing)
    measured = backward(kin.base.decoder, leaves, batch, reference, settings, pad=0)
    gradients = deepcopy(kin.bank)
    gradients.restore({key: tensor.grad for key, tensor in leaves.tensors() if tensor.grad is not None})
    for slot, adapter in enumerate(NAMES):
        parameters = theirs(kin, adapter)
        loss = loss_of(kin, adapter, batch, reference[slot])
        assert float(measured[0, slot]) == pytest.approx(loss.item(), rel=1e-5)
        slopes = torch.autograd.grad(loss, list(parameters.values()))
        expected = dict(zip(parameters, slopes, strict=True))
        assert apart(ours(gradients, adapter), expected) <= 1e-4 * apart(expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_epoch_is_adamw_over_autograds_gradients(kins: Kins, name: str) -> None:
    """Of an adapter that learns beside another."""
    kin, learned, adapter = kins(name), pairs(), "eight"
    settings = DpoSettings(
        beta=BETA, sft_weight=SFT, learning_rate=1e-3, batch=2, micro_batch=2, warmup=0.0, max_grad_norm=1.0
    )
    bank, parameters = deepcopy(kin.bank), theirs(kin, adapter)
    train(kin.base.decoder, bank, learned, settings, seed=5, iteration=1, pad=0, on_step=lambda _: None)

    before = {key: each.detach().clone() for key, each in parameters.items()}
    leaves = list(parameters.values())
    adamw = torch.optim.AdamW(leaves, weight_decay=settings.weight_decay)
    with torch.no_grad():
        reference = torch.stack([logprobs(kin, adapter, pair) for pair in learned])
    plan = batches(len(learned), settings.batch, 5, 1, 0)
    for step, members in enumerate(plan):
        loss = loss_of(kin, adapter, [learned[each] for each in members], reference[members])
        for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = slope
        torch.nn.utils.clip_grad_norm_(leaves, settings.max_grad_norm)
        adamw.param_groups[0]["lr"] = settings.learning_rate * cosine(step, len(plan), 0.0)
        adamw.step()
    # AdamW makes of a slope near zero a whole step, whose sign a rounding decides.
    assert apart(ours(bank, adapter), parameters) < 1e-2 * apart(before, parameters)
    with torch.no_grad():
        for key, each in parameters.items():
            each.copy_(before[key])
            each.grad = None


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_of_ours_is_the_same_in_peft(kins: Kins, tmp_path: Path, name: str) -> None:
    kin = kins(name)
    made = new_adapter("new", kin.base.decoder, 3, 6.0, seed=1, base="base")
    bank = load_bank(kin.base.decoder, [made])
    dice = torch.Generator().manual_seed(4)
    for _, _, b in bank.modules(0):
        b.copy_(0.3 * torch.randn(b.shape, generator=dice))
    write_adapter(tmp_path, bank, "new", made.config)
    kin.peft.load_adapter(tmp_path, adapter_name="new")
    try:
        ids = text(90, 7)
        with torch.no_grad():
            table = kin.logits("new", ids).log_softmax(-1)
            bare = kin.logits(None, ids).log_softmax(-1)
    finally:
        kin.peft.set_adapter("eight")
        kin.peft.delete_adapter("new")
    (found,) = log_probabilities(kin.base, bank, [Continuation("new", ids[:1], ids[1:])], 128)
    expected = table[range(89), ids[1:]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (bare[range(89), ids[1:]] - expected).abs().mean() > 0.01
