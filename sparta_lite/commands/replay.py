"""``sparta-lite replay``: what a run's recorded votes would have meant under other rules.

People read iterations and duels counted from 1, as everywhere; the JSON document counts both from 0, as the
run's files do.
"""

from __future__ import annotations

import json as json_text
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sparta_lite import combat
from sparta_lite.campaign.config import Config, load_config
from sparta_lite.campaign.hostility import hostile, titled
from sparta_lite.campaign.store import Store, no_run
from sparta_lite.combat.standing import judge_shares
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked
from sparta_lite.errors import SpartaError

_SHOWN = 20  # pairs that change sides, in the printed report


@dataclass(frozen=True)
class _Outcome:
    """What one set of rules makes of the votes."""

    ratings: dict[str, combat.Rating]
    """Of every adapter, after the last duel."""
    shares: dict[str, float]
    """Adapter -> its share of the judges' weight, after the last duel."""
    pairs: list[tuple[combat.Preference | None, ...]]
    """Per iteration and duel."""

    @property
    def count(self) -> int:
        return sum(pair is not None for pairs in self.pairs for pair in pairs)


@dataclass(frozen=True)
class _Replay:
    """A run's votes under its own rules and under others."""

    run: Path
    rules: Config
    """The other ones."""
    hostile: tuple[str, ...]
    recorded: _Outcome
    replayed: _Outcome
    changes: list[_Change]


@dataclass(frozen=True)
class _Change:
    """A duel whose pair is another one, or none, under the other rules."""

    iteration: int
    """From 0, like ``duel``."""
    duel: int
    fighters: tuple[str, str]
    recorded: str | None
    """The adapter whose answer was chosen; None where there was no pair."""
    replayed: str | None


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A rule to change: reputation.* or pairs.*"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document; it counts from 0.")] = False,
) -> None:
    """Settle a run's recorded votes under other rules, without a model."""
    for assignment in sets or []:
        if not assignment.startswith(("reputation.", "pairs.")):
            raise SpartaError(f"--set {assignment}: a replay changes reputation.* and pairs.* alone")
    if not (run / "config.yaml").is_file():
        raise no_run(run)
    from sparta_lite.campaign.reading import read_trace, recorded_config

    recorded_rules = recorded_config(Store(run))
    if recorded_rules.algorithm != "sparta":
        raise SpartaError(
            f"{run}: was run with algorithm {recorded_rules.algorithm}, whose pairs follow no reputation; "
            "give a run of sparta"
        )
    rules = load_config(run / "config.yaml", sets or [])
    quiet_libraries()
    trace = read_trace(run)
    recorded, replayed = _settled(trace, recorded_rules), _settled(trace, rules)
    found = _Replay(
        run,
        rules,
        hostile(recorded_rules, tuple(trace["start"])),
        recorded,
        replayed,
        _changes(trace, recorded, replayed),
    )
    note_unchecked(run)
    typer.echo(json_text.dumps(_document(found), indent=1) if json else _report(found))


def _settled(trace: dict[str, Any], rules: Config) -> _Outcome:
    settings = rules.reputation.settings()
    start = combat.as_trace(combat.begin(tuple(trace["start"]), settings), [])["start"]
    trace = {**trace, "start": start}
    settled = combat.settle_trace(trace, settings)
    standing = settled[-1][1].standing
    return _Outcome(
        standing.ratings,
        judge_shares(standing, settings.reading),
        [
            combat.preferences(bouts, settlement, settings, rules.pairs.minimum_margin)
            for bouts, settlement in settled
        ],
    )


def _changes(trace: dict[str, Any], recorded: _Outcome, replayed: _Outcome) -> list[_Change]:
    changes = []
    for number, iteration in enumerate(trace["iterations"]):
        for duel, entry in enumerate(iteration["duels"]):
            first, second = entry["fighters"]
            before = _chosen(recorded.pairs[number][duel])
            after = _chosen(replayed.pairs[number][duel])
            if before != after:
                changes.append(_Change(number, duel, (first, second), before, after))
    return changes


def _chosen(pair: combat.Preference | None) -> str | None:
    return None if pair is None else pair.duel.fighters[pair.chosen]


def _document(found: _Replay) -> dict[str, Any]:
    rules, recorded, replayed = found.rules, found.recorded, found.replayed
    return {
        "run": str(found.run),
        "rules": {"reputation": rules.reputation.model_dump(), "pairs": rules.pairs.model_dump()},
        "hostile": list(found.hostile),
        "reputations": {
            name: {"recorded": _pair(recorded.ratings[name]), "replayed": _pair(replayed.ratings[name])}
            for name in recorded.ratings
        },
        "judge_weights": {
            name: {"recorded": recorded.shares[name], "replayed": replayed.shares[name]}
            for name in recorded.shares
        },
        "pairs": {
            "recorded": recorded.count,
            "replayed": replayed.count,
            "changed": [vars(change) for change in found.changes],
        },
    }


def _pair(rating: combat.Rating) -> list[float]:
    return [rating.reputation, rating.deviation]


def _cells(outcome: _Outcome, name: str) -> str:
    rating = outcome.ratings[name]
    return f"{rating.reputation:9.3f} ± {rating.deviation:6.3f} {outcome.shares[name]:8.2%}"


def _report(found: _Replay) -> str:
    recorded, replayed, changes = found.recorded, found.replayed, found.changes
    titles = {name: titled(name, found.hostile) for name in recorded.ratings}
    width = max(len("adapter"), *map(len, titles.values()))
    lines = [
        f"{found.run} under {found.rules.reputation.kind!r} rules",
        "",
        f"{'adapter':{width}}  {'recorded':>27}  {'replayed':>27}",
        f"{'':{width}}  {'reputation':>18} {'judges':>8}  {'reputation':>18} {'judges':>8}",
    ]
    for name in sorted(replayed.ratings, key=lambda name: -replayed.ratings[name].reputation):
        lines.append(f"{titles[name]:{width}}  {_cells(recorded, name)}  {_cells(replayed, name)}")
    turned = sum(change.recorded is not None and change.replayed is not None for change in changes)
    lines += [
        "",
        f"pairs: {recorded.count} recorded, {replayed.count} replayed; {turned} change sides, "
        f"{len(changes) - turned} appear or vanish",
    ]
    lines += [
        f"  iteration {change.iteration + 1}, duel {change.duel + 1}: {' against '.join(change.fighters)}, "
        f"chosen {change.recorded or 'no one'} -> {change.replayed or 'no one'}"
        for change in changes[:_SHOWN]
    ]
    if len(changes) > _SHOWN:
        lines.append(f"  and {len(changes) - _SHOWN} more; --json lists them all")
    return "\n".join(lines)
