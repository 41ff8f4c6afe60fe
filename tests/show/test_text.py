from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sparta_lite.show.text import clean, clip, duration, fit, memory, rate, sparkline, wrapped


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\r\nb\tc\x00\x08d", "a b cd"),
        ("left\u202eright\u200b", "leftright"),
        ("[red]markup[/red]", "[red]markup[/red]"),
        ("  two\u00a0 words\u3000", "two words"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("\x9b2J\x9dtitle\x9cc1", "c1"),
    ],
)
def test_text_of_models_is_made_harmless(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@given(st.text())
def test_cleaned_text_is_printable_and_encodable(text: str) -> None:
    assert clean(text).isprintable()
    clean(text).encode()


@given(st.text(), st.integers(0, 30))
def test_clipped_text_fits(text: str, width: int) -> None:
    assert cell_len(clip(clean(text), width)) <= width


@given(st.text(), st.integers(0, 30), st.sampled_from(["left", "right"]))
def test_fitted_text_has_exactly_the_width(text: str, width: int, align: str) -> None:
    assert cell_len(fit(clean(text), width, align)) == width  # type: ignore[arg-type]


def test_clipping_ends_after_a_whole_word_when_one_is_near() -> None:
    assert clip("the answer you want", 17) == "the answer you…"
    assert clip("extraordinarily", 8) == "extraor…"
    assert clip("short", 5) == "short"


def test_wide_characters_count_two_cells() -> None:
    assert clip("東京は日本", 6) == "東京…"
    assert clip("東京は日本", 7) == "東京は…"
    assert fit("東京", 6) == "東京  "
    assert fit("東京", 6, "right") == "  東京"


@given(st.text(max_size=300), st.integers(2, 30), st.integers(1, 5))
def test_wrapped_lines_fit(text: str, width: int, lines: int) -> None:
    rows = wrapped(clean(text), width, lines)
    assert len(rows) <= lines
    assert all(cell_len(row) <= width for row in rows)


@given(st.text(alphabet="ab 東", max_size=80), st.integers(2, 12))
def test_wrapping_with_enough_lines_loses_nothing_but_blanks(text: str, width: int) -> None:
    rows = wrapped(clean(text), width, 1000)
    assert "".join(rows).replace(" ", "") == clean(text).replace(" ", "")


def test_wrapping_breaks_between_words() -> None:
    assert wrapped("the quick brown fox jumps", 10, 3) == ("the quick", "brown fox", "jumps")
    assert wrapped("the quick brown fox jumps", 10, 2) == ("the quick", "brown fox…")


def test_sparklines_share_one_scale() -> None:
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"
    assert sparkline([0.5, None], 0.0, 1.0) == "▅ "
    assert sparkline([0.3, 0.3], 0.3, 0.3) == "▁▁"


def test_durations_sizes_and_rates_are_short() -> None:
    assert [duration(seconds) for seconds in (7, 754, 3723, 273600)] == [
        "0:07",
        "12:34",
        "1:02:03",
        "3 d 04 h",
    ]
    assert [memory(size * 2**20) for size in (812, 21914)] == ["812 MiB", "21.4 GiB"]
    assert [rate(value) for value in (1240.4, 12.5, 0.04)] == ["1,240/s", "12.5/s", "0.04/s"]
