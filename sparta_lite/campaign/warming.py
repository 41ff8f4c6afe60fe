"""A warm-up on the card: what each phase really takes, and a plan corrected by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from sparta_lite.campaign.planning import with_sizes
from sparta_lite.campaign.settings import Config
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.memory import is_out_of_memory
from sparta_lite.engine.phases import Phase, longest_shared
from sparta_lite.engine.plan import Plan, corrected, planned
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.choice import again
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import backward
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

Meter = Callable[[Callable[[], object]], int | None]
"""Does the work it is given and returns its peak in bytes; None: it did not fit."""

_STEPS = 2  # tokens that a warm-up generates: the second is a step over the cache


def warm_up(
    base: Base, bank: Bank, config: Config, made: Plan, meter: Meter | None = None
) -> tuple[Plan, Config]:
    """Try every phase once at its planned sizes, on throwaway data, and plan anew where one takes more.

    No weight of the bank changes. Training through Unsloth or TRL is not tried: building their trainer
    would cost more than the halving of a batch that turns out too large.

    Args:
        base: the resident base.
        bank: the adapters.
        config: as given, with sizes that may be open.
        made: its plan.
        meter: how a peak is measured; None: on the CUDA device.

    Returns:
        The plan, corrected where needed, and ``config`` with its sizes.
    """
    meter = meter or cuda_peak
    work = made.work
    measured = {"generate": meter(lambda: _generate(base, bank, made))}
    if not work.judge_answer:
        measured["judge"] = meter(lambda: _judge(base, bank, made))
    if work.trainer == "tribe":
        measured["train"] = meter(lambda: _train(base, bank, config, made))
    phases, expected = _tried(made), foreseen(made)
    factors = {}
    for name, peak in measured.items():
        activations = phases[name].parts["activations"]
        factors[name] = 2.0 if peak is None else 1 + (peak - expected[name]) / activations
    if "evaluate" in phases:
        factors["evaluate"] = factors["generate"]
    if all(factor <= 1 for factor in factors.values()):
        return made, with_sizes(config, made)
    # The bank stands already as it was planned.
    made = corrected(replace(made, given={**made.given, "resident": made.sizes.resident}), factors)
    return made, with_sizes(config, made)


def foreseen(made: Plan) -> dict[str, int]:
    """Phase -> bytes, the base's included, that the plan expects of it in a warm-up."""
    # Which makes no optimizer step.
    return {
        name: made.weights + phase.memory - phase.parts.get("optimizer", 0)
        for name, phase in _tried(made).items()
    }


def _tried(made: Plan) -> dict[str, Phase]:
    """The phases as a warm-up tries them: after so few steps that a cache holds little more than prompts."""
    work = made.work
    judged = min(work.judge_answer, _STEPS)
    short = replace(work, answer=_STEPS, judge_answer=judged, evaluation_answer=_STEPS)
    phases = {phase.name: phase for phase in planned(made.shape, short, made.machine, made.sizes).phases}
    return phases | {"train": next(phase for phase in made.phases if phase.name == "train")}


def cuda_peak(work: Callable[[], object]) -> int | None:
    """A ``Meter`` of the CUDA device."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    return torch.cuda.max_memory_allocated()


def _tokens(made: Plan, count: int, first: int) -> tuple[int, ...]:
    return tuple((first + each) % made.shape.vocabulary for each in range(count))


def _generate(base: Base, bank: Bank, made: Plan) -> None:
    names = [adapter.name for adapter in bank.adapters[: bank.limit]]
    prompts = [
        Prompt(names[row % len(names)], _tokens(made, made.work.prompt, row), key=row)
        for row in range(made.sizes.places)
    ]
    sampling = Sampling(top_k=0) if made.work.uncut else Sampling()
    generate(base, bank, prompts, sampling, _STEPS, made.sizes.places, on_shrink=_refuse)
    base.warm.release()  # the other phases are measured without it


def _judge(base: Base, bank: Bank, made: Plan) -> None:
    """Rows of two responses behind their common beginning, as long as they may be."""
    name, size, longest = bank.adapters[0].name, made.sizes.batch_tokens, made.work.judge_prompt
    shared, tail = longest_shared(made.shape, made.work, size)
    own = max(1, (tail or longest) - 2)  # the forced beginning of a score here is one token and the digit
    rows = max(1, size // (shared + 2 * tail or longest))
    prompts = [
        Prompt(name, _tokens(made, shared, row) + _tokens(made, own, row + 1 + side))
        for row in range(rows)
        for side in range(2 if shared else 1)
    ]
    if size < longest:  # such a prompt goes alone
        prompts.append(Prompt(name, _tokens(made, max(1, longest - 2), rows)))
    answer = min(made.work.answer, own)
    responses = [(max(1, shared), max(1, shared) + answer - 1)] * len(prompts)
    tokens = ScoreTokens(prefix=(0,), digits=tuple(range(1, 10)), ten=(1, 0))
    expected_scores(base, bank, prompts, tokens, 0.0, size, on_shrink=_refuse, responses=responses)


def _refuse(phase: str, size: int, smaller: int) -> None:
    """What fits into a smaller batch alone does not fit."""
    raise torch.OutOfMemoryError(f"{phase} in a batch of {size}")


def _train(base: Base, bank: Bank, config: Config, made: Plan) -> None:
    work, sizes = made.work, made.sizes
    together = min(sizes.adapters_at_once, bank.limit)
    prompt = min(work.prompt_in_training, max(1, work.length - work.answer))
    answer = min(work.answer, work.length - prompt)
    pairs = [
        TokenizedPair(*(_tokens(made, count, row) for count in (prompt, answer, answer)))
        for row in range(sizes.micro_batch)
    ]
    known = {each.name for each in fields(DpoSettings)}
    given = config.training.model_dump(include=known) | {
        "micro_batch": sizes.micro_batch,
        "adapters_at_once": sizes.adapters_at_once,
        "checkpointing": sizes.checkpointing,
    }
    leaves = trainable(bank.part(0, together))
    reference = torch.zeros(together, len(pairs), 2, device=base.decoder.device)
    settings = DpoSettings(**given)
    again(lambda: backward(base.decoder, leaves, pairs, reference, settings, pad=0))
