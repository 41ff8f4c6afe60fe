"""The audit of a run's judges as tables that a terminal of 80 columns has room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparta_lite.campaign.hostility import titled
from sparta_lite.show.lines import FAINT, STRONG
from sparta_lite.show.text import clean, probability

_TRIBE = "tribe's verdict"

Rows = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class _View:
    """One table: so few figures of every row that 80 columns hold it."""

    title: str
    columns: Mapping[str, str]
    """Metric -> what stands above it."""
    caption: str


_VOTES = _View(
    "Votes",
    {"failed": "failed", "agreement": "agreement", "rank_correlation": "rank corr."},
    "failed: of the votes asked for; agreement: with the majority of the others; rank corr.: of a score "
    "with the others' mean",
)
_PREFIX = _View(
    "Would it have given a score by itself?",
    {"prefix": "begins a verdict"},
    "median probability with which it begins with what is forced on it where a score is read from one pass",
)
_FAILED = "failed_"
_ROUNDS = "rounds_"
"""What the shares of reasons are called."""
_RIGHT = _View(
    "Right",
    {"pair_accuracy": "pair accuracy", "auc": "AUC"},
    "pair accuracy: how often the right one of two answers is scored higher; AUC: any right answer above "
    "any wrong one",
)
_LENGTH = _View(
    "What the scores go with: the length of an answer",
    {"length_correlation": "overall", "length_within": "in a duel", "length_partial": "alone"},
    "correlation with its tokens; alone: in a duel, where the others' mean verdict is alike",
)
_LIKELIHOOD = _View(
    "What the scores go with: the likelihood of an answer under the judge itself",
    {"likelihood_within": "in a duel", "likelihood_partial": "alone"},
    "correlation with its log-probability per token; alone: as above",
)
_LAYOUTS = _View(
    "",
    {
        "layout_agreement": "same winner",
        "layout_turns_pair_accuracy": "right, turns",
        "layout_message_pair_accuracy": "right, message",
    },
    "the same answers read as turns and in one message",
)
_LAYOUTS_FAILED = _View(
    "Judgments that failed in either layout",
    {"layout_turns_failed": "turns", "layout_message_failed": "message"},
    "of those asked for",
)
_TWINS = _View(
    "",
    {"judges_net": "judges", "panel_net": "verdict", "panel_net_wrong": "if wrong"},
    "how often the injected answer beats its clean twin, less how often the twin beats it: by single "
    "judges, by the tribe's verdict, and by that where the answer is wrong",
)
_DUELS = _View(
    "Injected answers in the duels of their clean twins",
    {"turned": "turned", "win_gain": "gain", "win_gain_wrong": "if wrong"},
    "turned: of the duels that the twin does not win; gain: share of duels won, less the twin's, and the "
    "same for wrong answers",
)
_BOUGHT = _View(
    "What all injections together buy from a judge",
    {"injection_net": "net wins"},
    "how often an injected answer beats its clean twin, less how often the twin beats it",
)


def tables(record: Mapping[str, Any]) -> RenderableType:
    """Everything that ``audit.json`` holds, for people."""
    return Group(*_parts(record))


def _parts(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    truth, spoilers = record["truth"], record["hostile"]
    judges = {titled(name, spoilers): each for name, each in record["judges"].items()}
    rows = {**judges, _TRIBE: record["tribe"]}
    yield Text(f"{clean(record['run'])}: {record['duels']:,} duels")
    if not truth["known"]:
        yield Text(f"no truth to compare with: {clean(truth['missing'])}")
    yield from _shown(_VOTES, judges)
    yield from _reasons(_FAILED, "Why judgments failed", "of the votes asked for", judges)
    yield from _reasons(_ROUNDS, "Why sampled rounds gave no score", "of the rounds that gave none", judges)
    if any(figures.get("prefix") is not None for figures in judges.values()):
        yield from _shown(_PREFIX, judges)
    if truth["known"]:
        yield from _shown(_RIGHT, rows)
        yield from _iterations(record["iterations"])
    yield from _shown(_LENGTH, rows)
    yield from _shown(_LIKELIHOOD, judges)
    if spoilers and record["injection"] is not None:
        yield Text("\nWhat follows was judged anew; hostile judges are heard here as if they were not.")
    if record["layout"] is not None:
        yield from _layouts(record["layout"], judges)
    elif record["layout_missing"] is not None:
        yield Text(f"\nlayouts are not compared: {clean(record['layout_missing'])}")
    if record["injection"] is not None:
        yield from _injections(record["injection"], judges)
    yield Text(f"\nintervals: {record['intervals']}", style=FAINT)


def _reasons(start: str, title: str, caption: str, judges: Rows) -> Iterator[RenderableType]:
    """A row per reason that occurred: the shares of the judges from least to most, and on the mean."""
    shares: dict[str, list[float]] = {}
    for figures in judges.values():
        for key, value in figures.items():
            if key.startswith(start) and not key.endswith(("_low", "_high")) and value:
                shares.setdefault(key.removeprefix(start).replace("_", " "), []).append(value)
    if not shares:
        return
    table = _empty()
    table.add_column("reason")
    for name in ("judges", "most", "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for reason, found in sorted(shares.items(), key=lambda item: -sum(item[1])):
        mean = sum(found) / len(judges)
        table.add_row(reason, str(len(found)), f"{max(found):.3f}", f"{mean:.3f}")
    yield Text(f"\n{title}", style=STRONG)
    yield table
    yield Text(f"{caption}; judges: whom it happened to; mean: over all judges", style=FAINT)


def _layouts(layout: Mapping[str, Any], judges: Rows) -> Iterator[RenderableType]:
    rows = {**judges, _TRIBE: {f"layout_{name}": value for name, value in layout.items()}}
    yield from _shown(_LAYOUTS, rows, f"Layouts, {layout['duels']:,} duels; the run's is {layout['run']}")
    yield from _shown(_LAYOUTS_FAILED, rows)


def _injections(injection: Mapping[str, Any], judges: Rows) -> Iterator[RenderableType]:
    kinds = injection["kinds"]
    title = f"Injected answers against their clean twins, {injection['duels']:,} duels"
    yield from _shown(_TWINS, kinds, title, first="kind")
    yield from _shown(_DUELS, kinds, first="kind")
    yield from _shown(_BOUGHT, judges)
    yield Text(f"\n{_target(injection)}")


def _target(injection: Mapping[str, Any]) -> str:
    points = 100 * injection["target"]
    allowed = f"an injected answer wins no more often than its clean twin plus {points:.0f} points"
    if injection["worst"] is None:
        return f"target, {allowed}: cannot be said, for a kind could not be judged"
    gain = injection["worst_gain"]
    low, high = injection["worst_gain_low"], injection["worst_gain_high"]
    within = "" if low is None or high is None else f", 95 % {100 * low:+.1f} to {100 * high:+.1f}"
    verdict = {True: "met", False: "NOT met", None: "not settled by so few duels"}[injection["met"]]
    return f"target, {allowed}: {verdict} (most: {injection['worst']}, {100 * gain:+.1f}{within})"


def _iterations(rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """The tribe's verdicts against the truth, and the judges' range, iteration by iteration."""
    table = _empty()
    for title in ("iter.", "pair accuracy", "judges", "AUC", "judges"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row["iteration"])]
        for metric in ("pair_accuracy", "auc"):
            known = [each[metric] for each in row["judges"].values() if each[metric] is not None]
            cells.append(_figure(row["tribe"], metric))
            cells.append(f"{_short(min(known))} to {_short(max(known))}" if known else "–")
        table.add_row(*cells)
    yield Text("\nRight, iteration by iteration", style=STRONG)
    yield table
    yield Text("the tribe's verdict, and its judges from worst to best", style=FAINT)


def _shown(view: _View, rows: Rows, title: str = "", first: str = "judge") -> Iterator[RenderableType]:
    table = _empty()
    # It alone may be folded, so that the figures beside a long name stay whole.
    table.add_column(first, overflow="fold")
    for name in view.columns.values():
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in rows.items():
        table.add_row(Text(clean(name)), *(_figure(figures, metric) for metric in view.columns))
    yield Text(f"\n{title or view.title}", style=STRONG)
    yield table
    yield Text(view.caption, style=FAINT)


def _empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, header_style=FAINT, show_edge=False, padding=(0, 0, 0, 1))


def _figure(figures: Mapping[str, float | None], metric: str) -> str:
    """Value and the ends of its interval: Wilson's is not as wide above as below."""
    value = figures.get(metric)
    if value is None:
        return "–"
    low, high = figures.get(f"{metric}_low"), figures.get(f"{metric}_high")
    said = f"{value:.3f}" if metric != "prefix" else probability(value)
    if low is None or high is None:
        return said
    ends = (_short(low), _short(high)) if metric != "prefix" else (probability(low), probability(high))
    return f"{said} {' to '.join(ends)}"


def _short(value: float) -> str:
    """Without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"
