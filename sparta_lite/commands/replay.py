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
from sparta_lite.campaign.store import no_run
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.errors import SpartaError

_SHOWN = 20  # pairs that change sides, in the printed report


@dataclass(frozen=True)
class _Outcome:
    """What one set of rules makes of the votes."""

    ratings: dict[str, tuple[float, float]]
    """Adapter -> reputation and deviation, after the last duel."""
    shares: dict[str, float]
    """Adapter -> its share of the judges' weight, after the last duel."""
    pairs: list[tuple[combat.Preference | None, ...]]
    """Per iteration and duel."""

    @property
    def count(self) -> int:
        return sum(pair is not None for pairs in self.pairs for pair in pairs)


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
    recorded_rules = load_config(run / "config.yaml")
    if recorded_rules.algorithm != "sparta":
        raise SpartaError(
            f"{run}: was run with algorithm {recorded_rules.algorithm}, whose pairs follow no reputation; "
            "give a run of sparta"
        )
    rules = load_config(run / "config.yaml", sets or [])
    quiet_libraries()
    from sparta_lite.campaign.hostility import hostile
    from sparta_lite.campaign.store import read_trace

    trace = read_trace(run)
    spoilers = hostile(recorded_rules, tuple(trace["start"]))
    recorded, replayed = _settled(trace, recorded_rules), _settled(trace, rules)
    changes = _changes(trace, recorded, replayed)
    if json:
        typer.echo(json_text.dumps(_document(run, rules, spoilers, recorded, replayed, changes), indent=1))
    else:
        typer.echo(_report(run, rules, spoilers, recorded, replayed, changes))


def _settled(trace: dict[str, Any], rules: Config) -> _Outcome:
    settings = rules.reputation.settings()
    start = combat.as_trace(combat.begin(tuple(trace["start"]), settings), [])["start"]
    trace = {**trace, "start": start}
    pairs = combat.replay_preferences(trace, settings=settings, minimum_margin=rules.pairs.minimum_margin)
    shares = combat.replay_shares(trace, settings=settings)
    return _Outcome(combat.replay(trace, settings=settings)[-1], shares, pairs)


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


def _document(
    run: Path,
    rules: Config,
    spoilers: tuple[str, ...],
    recorded: _Outcome,
    replayed: _Outcome,
    changes: list[_Change],
) -> dict[str, Any]:
    return {
        "run": str(run),
        "rules": {"reputation": rules.reputation.model_dump(), "pairs": rules.pairs.model_dump()},
        "hostile": list(spoilers),
        "reputations": {
            name: {"recorded": list(recorded.ratings[name]), "replayed": list(replayed.ratings[name])}
            for name in recorded.ratings
        },
        "judge_weights": {
            name: {"recorded": recorded.shares[name], "replayed": replayed.shares[name]}
            for name in recorded.shares
        },
        "pairs": {
            "recorded": recorded.count,
            "replayed": replayed.count,
            "changed": [vars(change) for change in changes],
        },
    }


def _report(
    run: Path,
    rules: Config,
    spoilers: tuple[str, ...],
    recorded: _Outcome,
    replayed: _Outcome,
    changes: list[_Change],
) -> str:
    titles = {name: f"{name} (hostile)" if name in spoilers else name for name in recorded.ratings}
    width = max(len("adapter"), *map(len, titles.values()))
    lines = [
        f"{run} under {rules.reputation.kind!r} rules",
        "",
        f"{'adapter':{width}}  {'recorded':>27}  {'replayed':>27}",
        f"{'':{width}}  {'reputation':>18} {'judges':>8}  {'reputation':>18} {'judges':>8}",
    ]
    for name in sorted(replayed.ratings, key=lambda name: -replayed.ratings[name][0]):
        shown = (
            f"{outcome.ratings[name][0]:9.3f} ± {outcome.ratings[name][1]:6.3f} {outcome.shares[name]:8.2%}"
            for outcome in (recorded, replayed)
        )
        lines.append(f"{titles[name]:{width}}  " + "  ".join(shown))
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
