from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from sparta_lite.campaign.events import (
    AdapterStanding,
    DuelDecided,
    Evaluated,
    Event,
    Phase,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StandingsChanged,
    TrainingStep,
)

TRIBE = (
    "capitals",
    "words",
    "french",
    "opposites",
    "double",
    "next_letter",
    "gemini_alpaca",
    "sort",
    "largest",
    "halve",
)
MIB = 2**20

Recording = Callable[..., list[Event]]


def _phase(iteration: int, phase: Phase, total: int, seconds: float, tokens: int) -> Iterator[Event]:
    yield PhaseStarted(iteration, phase, total)
    for done in range(1, 6):
        share = done / 5
        yield PhaseProgress(
            iteration, phase, int(total * share), total, int(tokens * share), seconds * share, 700 * MIB
        )
    yield PhaseFinished(iteration, phase, seconds, tokens)


def _duels(
    iteration: int, tribe: tuple[str, ...], count: int, texts: tuple[str, str, str]
) -> Iterator[Event]:
    draw = random.Random(iteration)
    for duel in range(count):
        fighters = tuple(draw.sample(tribe, 2))
        votes: dict[str, tuple[float | None, float | None]] = {
            judge: (draw.uniform(1, 10), None if duel % 7 == 3 else draw.uniform(1, 10))
            for judge in tribe
            if judge not in fighters
        }
        yield DuelDecided(
            iteration,
            duel,
            texts[0],
            (fighters[0], fighters[1]),
            (texts[1], texts[2]),
            votes,
            (10.0, 4.25) if votes else None,
            fighters[0] if votes else None,
        )


def _recording(
    tribe: tuple[str, ...] = TRIBE,
    iterations: int = 4,
    duels: int = 20,
    truth: bool = True,
    texts: tuple[str, str, str] = (
        "What is the capital of France?",
        "Paris",
        "The capital of France is paris.",
    ),
) -> list[Event]:
    accuracy = {name: 0.45 + 0.01 * index for index, name in enumerate(tribe)}
    events: list[Event] = [
        RunStarted("runs/pocket", "pocket", "cpu", tribe, iterations, duels, 1, resumed=False)
    ]
    if truth:
        events += [*_phase(0, "evaluate", 300, 3.0, 6000), Evaluated(0, accuracy, 0.4)]
    for iteration in range(iterations):
        events += _phase(iteration, "match", duels, 0.01, 0)
        events += _phase(iteration, "generate", 2 * duels, 2.0, 1000)
        events += _phase(iteration, "judge", 2 * duels, 4.0, 20000)
        events.append(PhaseStarted(iteration, "settle", duels))
        events += _duels(iteration, tribe, duels, texts)
        events.append(PhaseFinished(iteration, "settle", 0.1, 0))
        standings = {
            name: AdapterStanding(100 + index / 10, 0.5, 12 * iteration, 3, 101, 1 / len(tribe))
            for index, name in enumerate(tribe)
        }
        events.append(StandingsChanged(iteration, standings))
        events.append(PhaseStarted(iteration, "train", 10))
        for step in range(1, 11):
            events.append(
                TrainingStep(iteration, step, 10, dict.fromkeys(tribe, 0.5), dict.fromkeys(tribe, 0.25))
            )
            events.append(PhaseProgress(iteration, "train", step, 10, 400 * step, 0.5 * step, 900 * MIB))
        events.append(PhaseFinished(iteration, "train", 5.0, 4000))
        if truth:
            accuracy = {name: value + 0.02 for name, value in accuracy.items()}
            events += [*_phase(iteration + 1, "evaluate", 300, 3.0, 6000)]
            events.append(Evaluated(iteration + 1, accuracy, 0.4))
    return [*events, RunFinished(90.0)]


@pytest.fixture
def recording() -> Recording:
    """Builds the events of a whole small run."""
    return _recording
