from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sparta_lite.campaign.events import (
    AdapterStanding,
    DuelDecided,
    Evaluated,
    Event,
    LearnsAlone,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Planned,
    RunFinished,
    RunStarted,
    Scored,
    StandingsChanged,
    TrainingStep,
    Warned,
)
from sparta_lite.show.remaining import left, left_in_phase
from sparta_lite.show.state import Board, HeldOut
from sparta_lite.show.summary import summary


def board(*events: Event) -> Board:
    result = Board()
    for event in events:
        result.update(event)
    return result


def started(resumed: bool = False, iterations: int = 2) -> RunStarted:
    return RunStarted("run", "base", "cpu", ("a", "b", "c"), iterations, 10, 1, resumed)


def whole_phase(iteration: int, phase: str, total: int, seconds: float, tokens: int = 0) -> list[Event]:
    return [
        PhaseStarted(iteration, phase, total),  # type: ignore[arg-type]
        PhaseProgress(iteration, phase, total, total, tokens, seconds, 5),  # type: ignore[arg-type]
        PhaseFinished(iteration, phase, seconds, tokens),  # type: ignore[arg-type]
    ]


def decided(iteration: int, duel: int, votes: dict[str, tuple[float | None, float | None]]) -> DuelDecided:
    return DuelDecided(iteration, duel, "?", ("a", "b"), ("x", "y"), votes, (6.0, 5.0), "a")


FIRST_ITERATION = [
    *whole_phase(0, "generate", 20, 10.0),  # 0.5 s a response
    *whole_phase(0, "judge", 20, 4.0),  # 0.2 s
    *whole_phase(0, "train", 5, 10.0),  # 2 s a step
]


def test_time_left_adds_this_phase_and_the_phases_to_come_at_their_measured_pace() -> None:
    now = board(
        started(),
        *FIRST_ITERATION,
        PhaseStarted(1, "generate", 20),
        PhaseProgress(1, "generate", 10, 20, 0, 7.0, 5),
    )

    # Generation: 30 responses in 17 s. To come: judging 20 x 0.2 s, training 5 x 2 s.
    assert left_in_phase(now) == pytest.approx(10 * 17 / 30)
    assert left(now) == pytest.approx((10 * 17 / 30 + 4 + 10,) * 2)


def test_time_left_counts_every_iteration_and_evaluation_to_come() -> None:
    now = board(
        started(iterations=4),
        *whole_phase(0, "evaluate", 100, 3.0),
        Evaluated(0, {"a": 0.5}, 0.4),
        *FIRST_ITERATION,
        *whole_phase(1, "evaluate", 100, 5.0),
        Evaluated(1, {"a": 0.5}, 0.4),
    )

    # Three iterations of 24 s, and three evaluations at the mean of 3 s and 5 s.
    assert now.learned == 1
    assert left(now) == pytest.approx((3 * 24 + 3 * 4,) * 2)


def test_an_evaluation_under_way_is_not_counted_twice() -> None:
    now = board(
        started(iterations=2),
        *whole_phase(0, "evaluate", 100, 4.0),
        Evaluated(0, {"a": 0.5}, 0.4),
        *FIRST_ITERATION,
        PhaseStarted(1, "evaluate", 100),
        PhaseProgress(1, "evaluate", 50, 100, 0, 2.0, 5),
    )

    assert left(now) == pytest.approx((2.0 + 24 + 4,) * 2)


def test_rarer_evaluations_are_expected_as_rarely() -> None:
    now = board(
        started(iterations=8),
        *whole_phase(0, "evaluate", 100, 4.0),
        Evaluated(0, {"a": 0.5}, 0.4),
        *FIRST_ITERATION,
        *FIRST_ITERATION,
        *whole_phase(3, "evaluate", 100, 4.0),
        Evaluated(3, {"a": 0.5}, 0.4),
        PhaseStarted(7, "train", 5),
    )

    # One training of 5 x 2 s, and evaluations after iterations 6 and 8, 4 s each.
    assert left(now) == pytest.approx((10 + 2 * 4,) * 2)


def test_time_left_is_unknown_until_an_iteration_was_measured() -> None:
    now = board(started(), PhaseStarted(0, "generate", 20), PhaseProgress(0, "generate", 10, 20, 0, 5.0, 5))

    assert left_in_phase(now) == pytest.approx(5.0)
    assert left(now) is None


PLAN = Planned(
    (),
    {},
    8,
    seconds={"evaluate": (1.0, 4.0), "generate": (5.0, 20.0), "judge": (2.0, 8.0), "train": (5.0, 20.0)},
)


def test_before_anything_is_measured_time_left_is_the_plans_range() -> None:
    now = board(PLAN, started(iterations=3), PhaseStarted(0, "evaluate", 100))
    # An evaluation before the first iteration and after each: four, and three iterations of 12 to 48 s.
    assert left(now) == pytest.approx((4 * 1 + 3 * 12, 4 * 4 + 3 * 48))


def test_measured_phases_correct_the_plan_of_those_to_come() -> None:
    begun = [PLAN, started(), PhaseStarted(0, "generate", 20)]
    half = PhaseProgress(
        0, "generate", 10, 20, 0, 20.0, 5
    )  # 40 s for what was planned as 5 to 20, 10 in the middle
    now = board(*begun, half)
    # Here 20 s, one more round of 40 s, and two of judging and training at four times their plan.
    assert left(now) == pytest.approx((60 + 2 * 4 * 7, 60 + 2 * 4 * 28))
    now = board(PLAN, started(), *whole_phase(0, "generate", 20, 40.0), *whole_phase(0, "judge", 20, 4.0))
    # 44 s where the middle of the plan was 10 + 4 s.
    assert left(now) == pytest.approx((40 + 4 + 2 * 5 * 44 / 14, 40 + 4 + 2 * 20 * 44 / 14))
    now = board(PLAN, started(), *FIRST_ITERATION)
    assert left(now) == pytest.approx((24.0, 24.0))


def test_a_phase_that_has_nothing_to_do_counts_for_nothing() -> None:
    """Such as the votes of a baseline that learns from reference answers."""
    now = board(
        PLAN,
        started(iterations=2),
        *whole_phase(0, "generate", 20, 10.0),
        *whole_phase(0, "judge", 0, 0.0),
        *whole_phase(0, "train", 5, 10.0),
    )
    assert left(now) == pytest.approx((20.0, 20.0))


def test_the_last_phase_of_the_last_iteration_leaves_only_itself() -> None:
    now = board(
        started(iterations=1),
        *FIRST_ITERATION[:-2],
        PhaseProgress(0, "train", 4, 5, 0, 8.0, 5),
    )

    assert left(now) == pytest.approx((2.0,) * 2)


def test_a_resumed_phase_is_measured_from_where_this_process_took_it_up() -> None:
    now = board(
        started(resumed=True),
        PhaseStarted(1, "generate", 20),
        PhaseProgress(1, "generate", 12, 20, 0, 0.5, 5),
        PhaseProgress(1, "generate", 16, 20, 100, 2.5, 5),
    )

    assert left_in_phase(now) == pytest.approx(4 * 2.0 / 4)
    assert now.tokens_per_second == pytest.approx(100 / 2.5)


def test_earlier_events_of_a_resumed_run_keep_results_and_lend_no_pace() -> None:
    earlier = [started(), Evaluated(0, {"a": 0.5, "b": 0.4, "c": 0.3}, 0.2), *FIRST_ITERATION]
    now = board(*earlier, started(resumed=True), PhaseStarted(1, "generate", 20))

    assert now.best_init == 0.5
    assert now.learned == 1
    assert left_in_phase(now) is None
    assert now.tokens_per_second is None


def test_held_out_accuracy_has_mean_best_worst_and_best_init() -> None:
    now = board(
        started(),
        Evaluated(0, {"a": 0.5, "b": 0.4, "c": 0.3}, 0.2),
        Evaluated(1, {"a": 0.5, "b": 0.7, "c": 0.3}, 0.2),
    )

    assert now.best_init == 0.5
    assert now.held_out() == (
        HeldOut(0, pytest.approx(0.4), 0.5, 0.3, "a", "c", 0.2),
        HeldOut(1, pytest.approx(0.5), 0.7, 0.3, "b", "c", 0.2),
    )


def test_hostile_adapters_are_left_out_of_the_tribe_s_accuracy() -> None:
    state = board(
        replace(started(), hostile=("c",)),
        Evaluated(0, {"a": 0.5, "b": 0.25, "c": 0.75}, 0.2),
        Evaluated(1, {"a": 0.75, "b": 0.5, "c": 0.125}, 0.2),
    )
    assert state.best_init == 0.5
    assert [(point.mean, point.best, point.worst) for point in state.held_out()] == [
        (0.375, 0.5, 0.25),
        (0.625, 0.75, 0.5),
    ]


def test_a_baseline_s_accuracy_is_its_learner_s() -> None:
    alone = replace(decided(0, 0, {"b": (5.0, 6.0)}), fighters=("b", "b"))
    state = board(
        replace(started(), algorithm="self-rewarding"),
        Evaluated(0, {"a": 0.5, "b": 0.25, "c": 0.75}, 0.2),
        alone,
        Evaluated(1, {"a": 0.5, "b": 0.875, "c": 0.75}, 0.2),
    )
    assert state.learner == "b"
    assert state.best_init == 0.75
    assert [point.mean for point in state.held_out()] == [0.25, 0.875]
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(summary(state))
    text = console.export_text()
    assert "self-rewarding: b learned alone" in text
    assert " b 0.875: +0.125 against best init 0.750" in text


def test_a_name_with_brackets_is_no_markup() -> None:
    state = board(
        replace(started(), algorithm="spin", tribe=("[red]a", "b")),
        Evaluated(0, {"[red]a": 0.5, "b": 0.25}, 0.2),
        LearnsAlone("[red]a"),
    )
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(summary(state))
    heading = next(line for line in console.export_text().splitlines() if "iterations" in line)
    assert heading.split() == ["iterations", "[red]a", "best", "init", "bare", "base"]


def test_who_learns_alone_is_known_before_the_first_duel() -> None:
    state = board(replace(started(), algorithm="spin"), Evaluated(0, {"a": 0.5, "b": 0.25, "c": 0.75}, 0.2))
    assert (state.baseline, state.learner, state.mark("b")) == ("spin", None, "")
    state.update(LearnsAlone("b"))
    assert (state.learner, state.mark("b"), state.mark("a")) == ("b", "learns", "")
    assert state.judged_by({"a": None, "b": 7.5, "c": 1.0}) == {"b": 7.5}
    assert board(started()).baseline is None


def test_only_the_first_task_is_charted() -> None:
    now = board(
        started(),
        Evaluated(0, {"a": 0.5, "b": 0.4, "c": 0.3}, 0.2, "gsm8k"),
        Evaluated(0, {"a": 0.9, "b": 0.9, "c": 0.9}, 0.9, "medqa"),
        Scored(0, {"a": 7.5, "b": 7.0, "c": None}, 6.0, "com2", {"c": 3}),
    )

    assert now.held_out() == (HeldOut(0, pytest.approx(0.4), 0.5, 0.3, "a", "c", 0.2),)


def test_the_leaderboard_is_ordered_by_reputation_with_changes_since_the_start() -> None:
    standing = AdapterStanding(reputation=99.0, deviation=0.5, wins=1, losses=2, draws=3, weight=0.3)
    higher = AdapterStanding(reputation=101.0, deviation=0.4, wins=3, losses=0, draws=0, weight=0.4)
    now = board(
        started(),
        Evaluated(0, {"a": 0.5, "b": 0.4}, 0.2),
        StandingsChanged(0, {"a": standing, "b": higher, "c": standing}),
        Evaluated(2, {"a": 0.25, "b": 0.75}, 0.2),
    )

    places = now.leaderboard()
    assert [place.adapter for place in places] == ["b", "a", "c"]
    assert places[0].standing == higher
    assert places[0].accuracy == 0.75
    assert places[0].change == pytest.approx(0.35)
    assert places[0].history == (0.4, None, 0.75)
    assert places[2].accuracy is None
    assert places[2].change is None


def test_before_the_first_standings_the_tribe_keeps_its_own_order() -> None:
    places = board(started(), Evaluated(0, {"a": 0.1, "b": 0.4, "c": 0.3}, 0.2)).leaderboard()

    assert [place.adapter for place in places] == ["a", "b", "c"]
    assert [place.change for place in places] == [None, None, None]


def test_failed_judgments_are_counted_per_judge_once_per_duel() -> None:
    now = board(
        started(),
        decided(0, 0, {"c": (None, 4.0), "d": (5.0, 5.0)}),
        decided(0, 1, {"c": (None, None)}),
        decided(0, 1, {"c": (None, None)}),
        decided(1, 1, {"d": (3.0, None)}),
    )

    assert now.failed_votes == {"c": 3, "d": 1}


def test_training_is_shown_only_while_the_tribe_trains() -> None:
    step = TrainingStep(0, 1, 5, {"a": 0.6}, {"a": 0.1})
    training = board(started(), PhaseStarted(0, "train", 5), step)
    assert training.training_now == step

    training.update(PhaseStarted(1, "evaluate", 10))
    assert training.training_now is None


def test_iterations_count_from_one_and_the_first_evaluation_is_zero() -> None:
    now = board(started(), PhaseStarted(0, "evaluate", 10))
    assert now.iteration_shown == 0
    now.update(PhaseStarted(0, "match", 10))
    assert now.iteration_shown == 1
    for event in whole_phase(0, "train", 5, 1.0):
        now.update(event)
    assert now.iteration_shown == 1
    now.update(PhaseStarted(1, "evaluate", 10))
    assert now.iteration_shown == 1


def test_warnings_and_the_end_are_kept() -> None:
    now = board(started(), Warned("first"), Warned("second"), RunFinished(12.0))

    assert now.warnings == ["first", "second"]
    assert now.finished == RunFinished(12.0)
