"""The audit of a run's judges, as one record to be saved as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparta_lite.campaign.planning import is_planned, planned
from sparta_lite.campaign.provenance import versions
from sparta_lite.campaign.reading import read_reputation, require_tokens
from sparta_lite.campaign.resident import choose, held_here, load_resident
from sparta_lite.engine.chat import Layout
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.audit.ballots import Ballot, read_ballots, verdicts_of, votes_of
from sparta_lite.outcome.audit.buying import TARGET, Sales, sell
from sparta_lite.outcome.audit.injections import injections
from sparta_lite.outcome.audit.layouts import Comparison, compare, in_other_layout
from sparta_lite.outcome.audit.recorded import (
    Figures,
    flat,
    judge_figures,
    reasons,
    tribe_figures,
    truth_figures,
)
from sparta_lite.outcome.audit.statistics import RESAMPLES
from sparta_lite.outcome.audit.trials import Court, sample
from sparta_lite.outcome.audit.truth import Truth, find_truth
from sparta_lite.outcome.finished import Finished

FORMAT = 1
"""Version of the record's form."""

INTERVALS = (
    f"95 %: Wilson's score interval for a share, else the middle of {RESAMPLES} resamples by duel; "
    "correlations are Spearman's"
)
_SHORTEST_TAIL = 256  # tokens of the very long tail, where a fighter may not write more

Say = Callable[[str], None]


def audit(run: Finished, duels: int, say: Say) -> dict[str, Any]:
    """Everything known of a run's judges.

    ``judges``: name -> metric -> number, or None with its reason in ``missing``; `recorded.judge_figures`,
    `layouts.compare` (``layout_*``) and `buying.sell` say what the metrics are. ``tribe`` is its verdict.
    Where the base's chat template refuses the other layout, ``layout`` is None; ``layout_missing`` says why.

    Args:
        run: as it stands; its last adapters are the judges of what is judged anew.
        duels: how many of its duels those are; 0: none, and no model is loaded.
        say: told what begins.

    Raises:
        SpartaError: nothing has been judged yet, a file is damaged, or base or adapters cannot be loaded.
    """
    truth = find_truth(run.config)
    say("reading the run's votes")
    ballots = read_ballots(run.store, truth)
    say(f"{len(ballots):,} duels judged by {len(run.tribe)} adapters")
    judges = {name: judge_figures(name, ballots, truth) for name in run.tribe}
    record: dict[str, Any] = {
        "format": FORMAT,
        "run": str(run.store.root),
        "created": time.time(),
        "versions": versions(),
        "intervals": INTERVALS,
        "duels": len(ballots),
        "hostile": list(run.hostile),
        "truth": {"known": truth.missing is None, "missing": truth.missing},
    }
    anew: dict[str, Any] = dict.fromkeys(("layout", "layout_missing", "injection"))
    if duels:
        comparison, sales, anew = _judged_anew(run, ballots, truth, duels, say)
        for name in judges:
            read = {} if comparison is None else comparison.judges[name]
            judges[name] |= {f"layout_{metric}": each for metric, each in read.items()}
            judges[name] |= sales.judges[name]
    tribe = tribe_figures(ballots, truth)
    return {
        **record,
        "judges": {name: flat(figures) for name, figures in judges.items()},
        "tribe": flat(tribe),
        "missing": _missing({**judges, "tribe": tribe}),
        "iterations": _by_iteration(run.tribe, ballots, truth),
        **anew,
    }


def _by_iteration(tribe: Sequence[str], ballots: Sequence[Ballot], truth: Truth) -> list[dict[str, Any]]:
    """Per iteration, from 1, how often judges and tribe were right."""
    rows = []
    for iteration in sorted({ballot.iteration for ballot in ballots}):
        part = [ballot for ballot in ballots if ballot.iteration == iteration]
        rows.append(
            {
                "iteration": iteration,
                "judges": {name: flat(truth_figures(votes_of(name, part), truth)) for name in tribe},
                "tribe": flat(truth_figures(verdicts_of(part), truth)),
            }
        )
    return rows


def _judged_anew(
    run: Finished, ballots: Sequence[Ballot], truth: Truth, duels: int, say: Say
) -> tuple[Comparison | None, Sales, dict[str, Any]]:
    chosen = sample(ballots, duels, run.config.seed)
    if not chosen:
        raise SpartaError(
            f"{run.store.root}: both answers are the same in every duel, so there is nothing to judge anew; "
            "give --duels 0 for what the files say"
        )
    court = _convene(run)
    fought = [ballot.fought for ballot in chosen]
    require_tokens(fought, court.resident.base.decoder.head.shape[0], str(run.store.root))
    papers = [(ballot, response.ids) for ballot in chosen for response in ballot.fought.responses]
    chat, refused = court.resident.chat, None
    layouts, read = [chat], {}
    try:
        layouts.append(in_other_layout(chat))
    except SpartaError as error:
        refused = str(error)
        say(f"layouts are not compared: {refused}")
    for asked in layouts:
        say(f"judging {len(chosen)} duels in the layout {asked.layout}")
        read[asked.layout] = court.scores(asked, papers)
    comparison = None if refused else compare(court, chosen, read, truth)
    tail = max(run.config.generation.max_new_tokens, _SHORTEST_TAIL)
    kinds = injections(chat, tail)
    say(f"judging them with {len(kinds)} kinds of injection")
    sales = sell(court, chosen, read[chat.layout], kinds)
    return (
        comparison,
        sales,
        {
            "layout": None if comparison is None else _layout(chat.layout, len(chosen), comparison.panel),
            "layout_missing": refused,
            "injection": {
                "layout": chat.layout,
                "duels": len(chosen),
                "target": TARGET,
                "met": sales.met,
                "worst": sales.worst,
                **({} if sales.worst is None else flat({"worst_gain": sales.gain(sales.worst)})),
                "kinds": {kind: flat(figures) for kind, figures in sales.kinds.items()},
                "missing": _missing(sales.kinds),
            },
        },
    )


def _layout(own: Layout, duels: int, panel: Figures) -> dict[str, Any]:
    return {"run": own, "duels": duels, **flat(panel), "missing": reasons(panel)}


def _convene(run: Finished) -> Court:
    """Load the judges as the run's last complete iteration left them."""
    record = run.store.read_run()
    choices = choose(run.config, training=False, record=record)
    config = held_here(run.config, choices, record)
    if not is_planned(config):
        _, config = planned(config, choices)
    resident = load_resident(config, choices, run.places(run.tribe), training=False, date=run.date)
    last = max(run.iteration - 1, 0)
    return Court(config, resident, run.tribe, read_reputation(run.store, last).judge_weights)


def _missing(figures: Mapping[str, Figures]) -> dict[str, dict[str, str]]:
    """Whose figures are missing, and why."""
    found = {name: reasons(each) for name, each in figures.items()}
    return {name: each for name, each in found.items() if each}
