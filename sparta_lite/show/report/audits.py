"""What the deeper audits of the judges have left beside a run, under whatever names they gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparta_lite.show.report.html import Html, folded, note, paragraph, section, table, tag
from sparta_lite.show.report.parts import NONE, Part, adapter, number
from sparta_lite.show.report.reading import RunFiles
from sparta_lite.show.text import probability

_COLUMNS = 6
"""Figures side by side; further ones are folded away."""
_FIRST = (
    *("failed", "agreement", "pair_accuracy", "auc", "length_within", "likelihood_within"),
    *("win_gain", "panel_net", "judges_net", "turned", "win_gain_wrong", "panel_net_wrong"),
)
"""The most telling figures, of judges and of injections."""
_MEANING = (
    "within: correlation, inside a duel, of the scores with an answer’s length, and with its likelihood "
    "under the judge itself. win gain: share of duels that the injected answer wins, less its twin’s. panel "
    "net, judges net: how often the verdict, or a judge, prefers it to the twin, less the reverse. turned: "
    "of the duels that the twin does not win. wrong: of wrong answers alone. prefix: median probability that "
    "a judge begins by itself with what is forced on it."
)
_ASIDE = ("judges", "tribe", "versions", "truth", "missing")
"""Shown elsewhere, or nothing that a reader of the figures looks for."""
_TARGET = ("layout", "duels", "target", "met", "worst", "worst_gain", "worst_gain_low", "worst_gain_high")
"""Of the injections: what the sentence on them says."""
_PREFIX = "prefix"
_BOUNDS = ("_low", "_high")
"""Behind a figure's name: the ends of its interval."""


def audit_part(run: RunFiles, audit: Mapping[str, Any]) -> Part:
    """The judges in tables, the whole tribe as their last row, and every other audit in its own."""
    judges, tribe = audit.get("judges", {}), audit.get("tribe")
    rows = dict(judges) if _holds_records(judges) else {}
    if rows and isinstance(tribe, dict):
        rows["the tribe’s verdict"] = tribe
    body = _tables(run, "judge", rows) if rows else []
    for key, value in audit.items():
        if key not in _ASIDE and isinstance(value, dict) and value:
            said = _target(value)
            rest = {name: each for name, each in value.items() if not said or name not in _TARGET}
            body += [tag("h3", _words(key).capitalize()), *said, *_anything(run, rest)]
    if audit.get("layout_missing"):
        body.append(note(f"The layouts are not compared: {audit['layout_missing']}."))
    if audit.get("hostile") and audit.get("injection"):
        body.append(note("What was judged anew hears hostile judges as if they were not."))
    body.append(note(_MEANING))
    if isinstance(audit.get("intervals"), str):
        body.append(note(f"Intervals: {audit['intervals']}."))
    return Part(section("audit", "Audits", *body), {})


def _target(audit: Mapping[str, Any]) -> list[Html]:
    """Whether injected answers win too often, where that has been measured."""
    met, target = audit.get("met"), audit.get("target")
    if audit.get("worst") is None or not isinstance(target, float):
        return []
    verdict = "not settled by so few duels" if met is None else "met" if met else "not met"
    points = {key: _points(audit.get(f"worst_gain{key}")) for key in ("", *_BOUNDS)}
    return [
        paragraph(
            f"An injected answer wins no more often than its clean twin plus {100 * target:.0f} points: ",
            tag("strong", verdict),
            f". The most it gains is {points['']} ({_words(_said(audit.get('worst')))}; 95% "
            f"{points['_low']} to {points['_high']}), over {_said(audit.get('duels'))} duels in the layout "
            f"{_said(audit.get('layout'))}.",
        )
    ]


def _anything(run: RunFiles, values: Mapping[str, Any]) -> list[Html]:
    """Plain figures in a list, records of the same figures in a table."""
    if _holds_records(values) and not any(map(_holds_records, values.values())):
        return _tables(run, "", values)
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [[_words(key), _figure(plain, key)] for key in _figures(plain)]
    parts = [table(["", ""], lines)] if lines else []
    for key, value in values.items():
        if _holds_records(value):
            parts += _tables(run, _words(key), value)
        elif isinstance(value, dict) and value:
            parts.append(
                table([_words(key), ""], [[_words(each), _figure(value, each)] for each in _figures(value)])
            )
    return parts


def _tables(run: RunFiles, what: str, rows: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """One row per name; the first figures to be seen at once, all others folded away below."""
    known = list(dict.fromkeys(key for of_one in rows.values() for key in _figures(of_one)))
    columns = [key for key in _FIRST if key in known] + [key for key in known if key not in _FIRST]
    tables = [
        table(
            [what, *map(_words, columns[start : start + _COLUMNS])],
            [
                [_named(run, name), *(_figure(of_one, key) for key in columns[start : start + _COLUMNS])]
                for name, of_one in rows.items()
            ],
        )
        for start in range(0, len(columns), _COLUMNS)
    ]
    if len(tables) < 2:
        return tables
    return [tables[0], folded(f"{len(columns) - _COLUMNS} more figures", *tables[1:])]


def _holds_records(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, dict) for each in value.values())


def _figures(values: Mapping[str, Any]) -> list[str]:
    """Names of the figures, without the ends of their intervals."""
    return [
        key for key in values if not any(key.endswith(end) and key[: -len(end)] in values for end in _BOUNDS)
    ]


def _figure(values: Mapping[str, Any], key: str) -> str:
    """A value with half the width of its interval, where it has one; a probability may be tiny."""
    if key == _PREFIX and isinstance(values.get(key), float):
        return probability(values[key])
    low, high = (values.get(f"{key}{end}") for end in _BOUNDS)
    between = f" ± {(high - low) / 2:.3f}" if isinstance(low, float) and isinstance(high, float) else ""
    return _said(values.get(key)) + between


def _said(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, ".3f")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_said(of_one)}" for key, of_one in value.items()) or NONE
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)


def _points(share: Any) -> str:
    return number(100 * share, "+.1f") if isinstance(share, float) else NONE


def _named(run: RunFiles, name: str) -> Html | str:
    return adapter(run, name) if name in run.tribe else _words(name)


def _words(key: str) -> str:
    return key.replace("_", " ")
