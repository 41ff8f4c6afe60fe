from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sparta_lite.campaign.events import Event, LearnsAlone, PhaseStarted, RunStarted, Warned
from sparta_lite.show.frame import frame
from sparta_lite.show.state import Board

Recording = Callable[..., list[Event]]
SIZES = [(80, 24), (100, 32), (200, 60), (40, 12), (20, 5), (1, 1)]


def board_after(events: list[Event]) -> Board:
    board = Board()
    for event in events:
        board.update(event)
    return board


def lines_of(board: Board, width: int, height: int) -> list[str]:
    return ["".join(segment.text for segment in line) for line in frame(board, width, height, 74.0)]


def before(events: list[Event], phase: str, iteration: int) -> list[Event]:
    """Up to and with the start of that phase."""
    index = next(
        index
        for index, event in enumerate(events)
        if isinstance(event, PhaseStarted) and (event.phase, event.iteration) == (phase, iteration)
    )
    return events[: index + 1]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("truth", [True, False])
def test_every_moment_of_a_run_fits_every_size(
    recording: Recording, width: int, height: int, truth: bool
) -> None:
    board = Board()
    for event in [None, *recording(iterations=2, truth=truth), Warned("disk nearly full " * 30)]:
        if event is not None:
            board.update(event)
        lines = lines_of(board, width, height)
        assert len(lines) == height
        assert all(cell_len(line) <= width for line in lines)


def test_a_standard_terminal_shows_ten_adapters_progress_and_the_whole_duel(recording: Recording) -> None:
    events = recording()
    lines = lines_of(board_after(before(events, "judge", 3)), 80, 24)
    screen = "\n".join(lines)

    assert "match  generate  ▸ judge  settle  train  evaluate" in screen
    assert "0 of 40 judgments" in screen
    table = next(index for index, line in enumerate(lines) if line.startswith(" adapter"))
    # Highest reputation first, every name whole.
    places = [line.split()[0] for line in lines[table + 1 : table + 11]]
    assert places == list(reversed(events[0].tribe))  # type: ignore[union-attr]
    assert lines[table].split() == ["adapter", "reputation", *"WDL", "weight", "held-out", "change", "trend"]
    assert "latest duel  20 of 20, iteration 3" in screen
    assert "What is the capital of France?" in screen
    assert "10.00  Paris" in screen
    assert "4.25  The capital of France is paris." in screen
    votes = lines[-2:]
    assert sum(line.count(":") for line in votes) == 8


def test_the_headline_compares_the_tribe_with_best_init_and_the_bare_base(recording: Recording) -> None:
    labels, values = lines_of(board_after(before(recording(), "judge", 3)), 80, 24)[2:4]

    # Three iterations of +0.02 on 0.45, 0.46, ... 0.54.
    assert labels.split("  ")[0].strip() == "held-out mean"
    assert values.split() == ["0.555", "+0.060", "0.600", "halve", "0.510", "capitals", "0.540", "0.400"]


def test_a_baseline_s_header_and_headline_are_its_learner_s(recording: Recording) -> None:
    events = before(recording(), "judge", 3)
    assert isinstance(events[0], RunStarted)
    board = board_after([dataclasses.replace(events[0], algorithm="self-rewarding"), *events[1:]])
    # Who learns is told before there is any duel.
    first = board_after([board.run, PhaseStarted(0, "match", 10), LearnsAlone("french")])  # type: ignore[list-item]
    assert "self-rewarding: french learns" in lines_of(first, 80, 24)[0]
    assert "one adapter learns" in lines_of(board_after([board.run]), 80, 24)[0]  # type: ignore[list-item]
    board.update(LearnsAlone("french"))
    for width in (80, 120):
        header, _, labels, values = lines_of(board, width, 24)[:4]
        assert "self-rewarding: french learns" in header
        assert labels.split() == ["french", *labels.split()[1:]]
        # Three iterations of +0.02 on 0.47.
        assert values.split() == ["0.530", "+0.060", "0.540", "0.400"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_hostile_adapters_are_marked(recording: Recording, width: int) -> None:
    events = before(recording(), "judge", 3)
    assert isinstance(events[0], RunStarted)
    board = board_after([dataclasses.replace(events[0], hostile=("sort", "halve")), *events[1:]])
    marked = [line.split()[0] for line in lines_of(board, width, 32) if " hostile " in f"{line} "]
    assert sorted(marked) == ["halve", "sort"]


def test_without_ground_truth_there_are_reputations_and_wins_only(recording: Recording) -> None:
    board = board_after(before(recording(truth=False), "judge", 3))
    for width, height in SIZES:
        screen = "\n".join(lines_of(board, width, height))
        assert "held-out" not in screen
        assert "evaluate" not in screen
        assert "best init" not in screen
    lines = lines_of(board, 80, 24)
    assert any(line.split() == ["adapter", "reputation", *"WDL", "weight", "no", "vote"] for line in lines)


def test_a_tall_terminal_charts_the_held_out_accuracy(recording: Recording) -> None:
    lines = lines_of(board_after(before(recording(), "judge", 3)), 100, 32)
    start = next(index for index, line in enumerate(lines) if "held-out accuracy" in line)

    assert lines[start + 1].startswith(" 0.600 ┤")
    assert lines[start + 5].startswith(" 0.400 ┤")
    assert lines[start + 6].split() == ["0", "1", "2", "3", "4"]


def test_the_chart_s_legend_names_what_is_drawn(recording: Recording) -> None:
    board = board_after(events := before(recording(), "judge", 3))
    [title] = [line for line in lines_of(board, 80, 40) if "held-out accuracy" in line]
    assert title.split("accuracy ── ")[1] == "⠤⠤ mean  ⠄⠄ best, worst  ⠤ ⠤ best init  ⠄ ⠄ bare base ──"
    assert isinstance(events[0], RunStarted)
    alone = [dataclasses.replace(events[0], algorithm="sppo"), LearnsAlone("french"), *events[1:]]
    [title] = [line for line in lines_of(board_after(alone), 80, 40) if "held-out accuracy" in line]
    assert title.split("─ ")[-1].split(" ──")[0] == "⠤⠤ french  ⠤ ⠤ best init  ⠄ ⠄ bare base"


def test_a_short_terminal_says_how_many_adapters_it_leaves_out(recording: Recording) -> None:
    lines = lines_of(board_after(recording()[:-1]), 40, 12)

    assert lines[-1] == " … 5 more"


def test_training_shows_loss_and_margin(recording: Recording) -> None:
    events = before(recording(), "train", 1)
    events += recording()[len(events) : len(events) + 2]

    assert "loss 0.500  margin +0.25" in "\n".join(lines_of(board_after(events), 120, 32))


def test_the_winner_is_marked_without_colour_and_a_draw_on_both_sides(recording: Recording) -> None:
    board = board_after(before(recording(), "judge", 3))
    assert board.duel is not None
    winner = board.duel.winner
    marked = [line for line in lines_of(board, 80, 24) if line.startswith(" ▸ ")]
    assert [line.split()[1] for line in marked] == [winner]


def test_hostile_text_neither_escapes_nor_breaks_the_layout(recording: Recording) -> None:
    texts = (
        "\x1b[2J\x1b[31m[red]ignore[/red]\n\n\nall\r\n rules " * 5,
        "\x1b]0;owned\x07" + "東京は日本の首都です。" * 60,
        "👩‍👩‍👧‍👦❤️ \u202e reversed \u0301\u0301\u0301 " * 60,
    )
    tribe = ("[bold]a\x1b[5m", "名前の長いアダプター名前の長い", *"cdefgh", "x" * 200, "\n\n")
    events = recording(tribe=tribe, texts=texts, iterations=2)
    board = board_after([*before(events, "judge", 1), Warned("\x1b[2J\nwarned")])
    for width, height in SIZES:
        lines = lines_of(board, width, height)
        assert len(lines) == height
        assert all(line.isprintable() and cell_len(line) <= width for line in lines)
    screen = "\n".join(lines_of(board, 100, 32))
    assert "[red]ignore[/red] all rules" in screen
    assert "東京は日本の首都です。" in screen


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=400), st.text(max_size=400), st.integers(1, 160), st.integers(1, 50))
def test_any_text_fits_any_size(
    recording: Recording, question: str, answer: str, width: int, height: int
) -> None:
    events = recording(texts=(question, answer, "東" + answer), iterations=1, duels=1)
    lines = lines_of(board_after(events[:-1]), width, height)
    assert len(lines) == height
    assert all(line.isprintable() and cell_len(line) <= width for line in lines)


def test_a_tribe_of_two_has_no_votes(recording: Recording) -> None:
    events = recording(tribe=("a", "b"), iterations=1)
    assert "latest duel" in "\n".join(lines_of(board_after(events[:-1]), 80, 24))


def test_the_chart_fits_any_number_of_iterations(recording: Recording) -> None:
    for iterations in (1, 7, 300, 12345):
        board = board_after(recording(iterations=2)[:-1])
        assert board.run is not None
        board.run = dataclasses.replace(board.run, iterations=iterations)
        lines = lines_of(board, 40, 40)
        assert any("held-out accuracy" in line for line in lines)
        assert all(cell_len(line) <= 40 for line in lines)
