"""``sparta-lite audit``: what a run's judges agree on, what they lean to, and whether votes can be bought."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.files import write_json
from sparta_lite.show.text import clean

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 110  # columns where no terminal says how many it has

_JUDGES = {
    "failed": "failed",
    "agreement": "agreement",
    "rank_correlation": "rank corr.",
    "pair_accuracy": "pair accuracy",
    "auc": "AUC",
}
_LEANINGS = {
    "length_correlation": "length",
    "length_within": "in a duel",
    "length_partial": "alone",
    "likelihood_within": "likelihood",
    "likelihood_partial": "alone",
    "injection_net": "injections",
}
_LAYOUT = {
    "layout_agreement": "same winner",
    "layout_turns_pair_accuracy": "right, turns",
    "layout_message_pair_accuracy": "right, message",
    "layout_turns_failed": "failed, turns",
    "layout_message_failed": "failed, message",
}
_INJECTION = {
    "judges_net": "judges",
    "panel_net": "verdict",
    "panel_net_wrong": "if wrong",
    "turned": "turned",
    "win_gain": "gain",
    "win_gain_wrong": "if wrong",
}


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    duels: Annotated[
        int, typer.Option(min=0, help="Duels to judge anew; 0: only what the run's files say, no model.")
    ] = 40,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Audit the judges of a run; the record goes to RUN/audit.json."""
    quiet_libraries()
    from sparta_lite.outcome.audit.auditing import audit as audited
    from sparta_lite.outcome.finished import open_run

    finished = open_run(run)
    record = audited(finished, duels, _say)
    place = finished.store.root / "audit.json"
    write_json(place, record)
    if json:
        typer.echo(json_text.dumps(record, indent=1))
    else:
        _show(record)
    _say(f"saved as {place}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(record: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    judges, tribe = record["judges"], record["tribe"]
    console.print(f"{clean(record['run'])}: {record['duels']:,} duels", highlight=False)
    if not record["truth"]["known"]:
        console.print(f"no truth to compare with: {clean(record['truth']['missing'])}", highlight=False)
    console.print()
    rows = {**judges, "tribe's verdict": tribe}
    console.print(_table("Votes", _JUDGES, rows, "agreement with the other judges, and with what is right"))
    console.print(
        _table(
            "What the scores go with",
            _LEANINGS,
            rows,
            "length of an answer; its likelihood under the judge, in a duel; 'alone': in a duel, where the "
            "others' mean verdict is alike; injections: net wins over their clean twins",
        )
    )
    if record["truth"]["known"]:
        console.print(_iterations(record["iterations"]))
    if record["layout"] is not None:
        panel = {f"layout_{name}": value for name, value in record["layout"].items()}
        console.print(
            _table(
                f"Layouts, {record['layout']['duels']:,} duels; the run's is {record['layout']['run']}",
                _LAYOUT,
                {**judges, "tribe's verdict": panel},
                "the same answers read as turns and in one message",
            )
        )
    if record["injection"] is not None:
        _show_injection(console.print, record["injection"])
    console.print(f"intervals: {record['intervals']}", highlight=False)


def _show_injection(show: Any, injection: Mapping[str, Any]) -> None:
    show(
        _table(
            f"Injected answers against their clean twins, {injection['duels']:,} duels",
            _INJECTION,
            injection["kinds"],
            "judges, verdict: how often the injected answer beats its twin less how often the twin beats it; "
            "turned: of the duels that the twin does not win; gain: share of duels won, less the twin's; "
            "if wrong: wrong answers alone",
            first="kind",
        )
    )
    met, worst = injection["met"], injection["worst"]
    points = 100 * injection["target"]
    allowed = f"an injected answer wins no more often than its clean twin plus {points:.0f} points"
    if met is None:
        show(f"target, {allowed}: cannot be said, for a kind could not be judged", highlight=False)
        return
    gain = injection["worst_gain"]
    low, high = injection["worst_gain_low"], injection["worst_gain_high"]
    within = "" if low is None or high is None else f", 95 % {100 * low:+.1f} to {100 * high:+.1f}"
    verdict = "met" if met else "NOT met"
    show(f"target, {allowed}: {verdict} (most: {worst}, {100 * gain:+.1f}{within})", highlight=False)


def _iterations(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The tribe's verdicts against the truth, and the judges' range, iteration by iteration."""
    table = _empty("Right, iteration by iteration", "pair accuracy and AUC; judges from worst to best")
    for title in ("iteration", "pair accuracy", "judges", "AUC", "judges"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row["iteration"])]
        for metric in ("pair_accuracy", "auc"):
            known = [each[metric] for each in row["judges"].values() if each[metric] is not None]
            cells.append(_figure(row["tribe"], metric))
            cells.append(f"{min(known):.3f} to {max(known):.3f}" if known else "–")
        table.add_row(*cells)
    return table


def _table(
    title: str,
    columns: Mapping[str, str],
    rows: Mapping[str, Mapping[str, float | None]],
    caption: str,
    first: str = "judge",
) -> Table:
    from rich.text import Text

    table = _empty(title, caption)
    table.add_column(first, no_wrap=True)
    for name in columns.values():
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in rows.items():
        table.add_row(Text(clean(name)), *(_figure(figures, metric) for metric in columns))
    return table


def _empty(title: str, caption: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        caption=f"{caption}\n",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title_justify="left",
        caption_justify="left",
    )


def _figure(figures: Mapping[str, float | None], metric: str) -> str:
    """Value and half the width of its interval."""
    value = figures.get(metric)
    if value is None:
        return "–"
    low, high = figures.get(f"{metric}_low"), figures.get(f"{metric}_high")
    spread = "" if low is None or high is None else f" ±{(high - low) / 2:.3f}".replace("±0.", "±.")
    return f"{value:.3f}{spread}"
