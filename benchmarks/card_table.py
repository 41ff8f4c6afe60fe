"""What ``first_minutes.py`` found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from card_work import Step


def summary(step: Step, ended: Mapping[str, Any]) -> str:
    """A step's figures, or what became of it, in a line."""
    if ended["status"] != "done":
        return f"{ended['status']}, {ended.get('error', '')}"
    return ", ".join(
        f"{key.rpartition('.')[2]} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
        for key in step.shown
        if (value := _at(ended["found"], key)) is not None
    )


def _at(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def show(steps: Mapping[str, Step], report: Mapping[str, Any]) -> None:
    """The steps, and in tables of their own what has several figures."""
    console = Console(width=120)
    made = {name: report["steps"][name] for name in steps if name in report["steps"]}
    title = report.get("about", {}).get("device")
    table = Table("step", "status", "seconds", "expected", "found", title=title)
    for name, ended in made.items():
        said = summary(steps[name], ended)
        table.add_row(name, ended["status"], f"{ended.get('seconds', 0):.1f}", str(steps[name].seconds), said)
    console.print(table)
    found = {name: ended["found"] for name, ended in made.items() if ended["status"] == "done"}
    for name, rows in _tables(found).items():
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        table = Table(name, *columns)
        for label, row in rows.items():
            table.add_row(label, *(_cell(row.get(column)) for column in columns))
        console.print(table)


def _tables(found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Title -> label -> column -> figure."""
    tables = {}
    if "soundness" in found:
        tables["relative error"] = found["soundness"]["kernels"]
    for shape, rows in found.get("nf4", {"microseconds": {}})["microseconds"].items():
        tables[f"us, {shape}"] = rows
    for name in ("decode", "unpacked"):
        if name in found:
            tables[name] = {
                label: {
                    key: value for key, value in row.items() if key in ("ms", "tokens_a_second", "recorded")
                }
                | {"share of floor": row["share_of_floor"]}
                for label, row in found[name]["decode"].items()
            }
    for cap, rows in found.get("memory", {"within": {}})["within"].items():
        tables[f"bytes, {cap}"] = rows["phases"]
    if "run" in found:
        tables["run"] = found["run"]["phases"]
    return tables


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "-" if value is None else str(value)
