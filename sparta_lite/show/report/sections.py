"""The parts of a run's report, from top to bottom."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime, timezone

from sparta_lite.campaign.reluctance import HARDLY_EVER, median_prefix
from sparta_lite.show.report import figures
from sparta_lite.show.report.audits import audit_part
from sparta_lite.show.report.headline import measured
from sparta_lite.show.report.html import Html, chart, folded, join, note, paragraph, section, table, tag
from sparta_lite.show.report.judges import effective_number, judge_figures
from sparta_lite.show.report.parts import NONE, Part, adapter, number, percent
from sparta_lite.show.report.reading import RunFiles
from sparta_lite.show.state import PHASES
from sparta_lite.show.text import duration, memory, probability

_CURVES = (
    ("loss", "loss"),
    ("margin", "margin of the rewards"),
    ("chosen_logprob", "log p(chosen answer)"),
)
"""Fields of a training step, and what their axes say."""


def run_parts(run: RunFiles) -> list[Part]:
    """What there is to show of a run; what it has not come to yet is left out."""
    parts = [*measured(run)]
    if run.iterations and run.started.algorithm == "sparta":
        # An adapter that learns alone fights itself: nobody wins, and all reputations stay.
        parts += [_reputations(run), _wins(run), _weights(run)]
    if any(settled.judgments for settled in run.iterations):
        parts.append(_judges(run))
    if run.audit is not None:
        parts.append(audit_part(run, run.audit))
    if run.training:
        parts.append(_training(run))
    if run.spent:
        parts.append(_cost(run))
    if run.iterations:
        parts.append(_duels(run))
    return [*parts, _again(run)]


def about(run: RunFiles) -> Html:
    """What this run is, in one line."""
    started = run.started
    when = datetime.fromtimestamp(run.record.started, timezone.utc)
    facts = [
        *([] if started.algorithm == "sparta" else [started.algorithm]),
        f"{len(run.tribe)} adapters on {started.base}",
        f"{started.iterations} × {started.duels:,} duels",
        f"seed {started.seed}",
        started.device,
        *([f"hostile: {', '.join(started.hostile)}"] if started.hostile else []),
        f"{when:%d %B %Y, %H:%M} UTC",
        _ended(run),
    ]
    return join(facts, " · ")


def _ended(run: RunFiles) -> str:
    if run.state == "finished" and run.record.finished is not None:
        return f"finished after {duration(run.record.finished - run.record.started)}"
    return f"{run.state} after {len(run.iterations)} of {run.started.iterations} iterations"


def _reputations(run: RunFiles) -> Part:
    last = run.iterations[-1].ratings
    moved = [reputation for reputation, _ in last.values()]
    said = note(
        "Bars: a fitted reputation’s standard error, else the standard deviation of the adapter’s latest "
        "changes. "
        f"After the last duel the reputations lie between {min(moved):.2f} and "
        f"{max(moved):.2f}."
    )
    body = [chart("reputations", "every adapter's reputation over the iterations"), said]
    return Part(section("reputations", "Reputations", *body), {"reputations": figures.reputations(run)})


def _wins(run: RunFiles) -> Part:
    said = note(
        "Per cent of the decided duels that the row won against the column, and below it how many those are; "
        "blank: they never met."
    )
    body = [chart("wins", "share of duels won, row against column"), said]
    return Part(section("wins", "Who beats whom", *body), {"wins": figures.wins(run.tribe, run.iterations)})


def _weights(run: RunFiles) -> Part:
    weights = run.iterations[-1].weights
    said = paragraph(
        f"After the last duel the judges’ shares go from {min(weights.values()):.2%} to "
        f"{max(weights.values()):.2%}; all alike would be {1 / len(weights):.2%}. They weigh as evenly as ",
        tag("strong", f"{effective_number(weights.values()):.2f}"),
        f" of {len(weights)} judges that count alike.",
    )
    body = [said, chart("weights", "every judge's weight over the iterations")]
    return Part(section("weights", "Effective judge weights", *body), {"weights": figures.judge_weights(run)})


def _judges(run: RunFiles) -> Part:
    judged = (
        (duel, settled.judgments.get(duel.duel.index, ()))
        for settled in run.iterations
        for duel in settled.duels
    )
    rows = []
    for name, found in judge_figures(run.tribe, judged).items():
        if not found.answers:
            continue
        share = found.failed / found.answers
        reasons = _counts(found.failures)
        if found.unparsed:
            reasons += f" (rounds: {_counts(found.unparsed)})"
        level = NONE if found.mean is None else f"{found.mean:.2f} ± {found.spread:.2f}"
        rows.append(
            [
                adapter(run, name),
                f"{found.answers:,}",
                percent(share),
                percent(found.agreement),
                level,
                number(found.length, "+.2f"),
                NONE if found.prefix is None else probability(found.prefix),
                reasons or NONE,
            ]
        )
    head = ["judge", "answers", "failed", "agrees", "score", "r(length)", "begins", "why it failed"]
    said = note(
        "agrees: duels in which it prefers the answer that the mean of the others prefers; 50% is chance, "
        "and duels in which either sees no difference are left out. score: mean and standard deviation. "
        "r(length): correlation of its scores with the answers’ tokens. begins: where the beginning of a "
        "verdict was forced on it, the median probability that it would have written that by itself. A "
        "failed judgment is no vote."
    )
    body = [table(head, rows), *_reluctance(run), said]
    return Part(section("judges", "The judges", *body), {})


def _reluctance(run: RunFiles) -> list[Html]:
    """Whether the judges would have given scores at all."""
    everyone = (
        judgment
        for settled in run.iterations
        for judgments in settled.judgments.values()
        for judgment in judgments
    )
    found = median_prefix(everyone)
    if found is None or found >= HARDLY_EVER:
        return []
    return [
        paragraph(
            tag("strong", "These judges would hardly ever give a score themselves: "),
            "left alone they begin a verdict as they were asked to with a median probability of "
            f"{probability(found)}. Their scores are those that they were made to give.",
        )
    ]


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())


def _training(run: RunFiles) -> Part:
    drawn = {key: figures.training(run, key, title) for key, title in _CURVES}
    drawn["lengths"] = figures.lengths(run)
    charts = [chart(key, f"{title}, every adapter over the optimizer steps") for key, title in _CURVES]
    charts.append(chart("lengths", "mean length of every adapter's answers over the iterations"))
    thick = "Thick: the tribe’s mean. " if run.learner is None else ""
    said = note(
        f"{thick}Vertical lines part the iterations. {_likelihood_in_loss(run)}The margin is that of the "
        "implicit rewards, chosen less rejected; it starts at 0 in every iteration. A log-probability of "
        "chosen answers that falls, and answers that grow, are the usual ways in which DPO goes wrong."
    )
    return Part(section("training", "Training", tag("div", *charts, class_="pair"), said), drawn)


def _likelihood_in_loss(run: RunFiles) -> str:
    """Why the loss begins elsewhere than one knows it, where it holds more than that of the preferences."""
    if not run.sft_weight:
        return ""
    alone = "" if run.started.algorithm == "sppo" else "; DPO alone would begin at ln 2 = 0.693"
    return (
        f"The loss holds {run.sft_weight:g} (training.sft_weight) times the mean negative log-likelihood of "
        f"the chosen answer’s tokens{alone}. "
    )


def _cost(run: RunFiles) -> Part:
    total = sum(row.seconds for row in run.spent)
    rows = []
    for phase in PHASES:
        spent = [row for row in run.spent if row.phase == phase]
        if not spent:
            continue
        seconds, tokens = sum(row.seconds for row in spent), sum(row.tokens for row in spent)
        peaks = [row.memory for row in spent if row.memory is not None]
        plan = run.planned.get(phase)
        rows.append(
            [
                phase,
                f"{seconds:,.1f} s",
                percent(seconds / total if total else None),
                f"{tokens:,}" if tokens else NONE,
                f"{tokens / seconds:,.0f}" if tokens and seconds > 0 else NONE,
                memory(max(peaks)) if peaks else NONE,
                NONE if plan is None else memory(plan),
            ]
        )
    rows.append([tag("strong", "all phases"), tag("strong", f"{total:,.1f} s"), *[""] * 5])
    head = ["phase", "time", "share", "tokens", "tokens/s", "peak memory", "planned"]
    what = (
        "allocated on the GPU" if run.started.device.startswith("cuda") else "resident memory of the process"
    )
    said = note(f"Peak memory is the highest {what} since it began, so it never falls from phase to phase.")
    body = [table(head, rows), chart("cost", "seconds per phase and iteration"), said]
    return Part(section("cost", "Time and memory", *body), {"cost": figures.time_spent(run.spent)})


def _duels(run: RunFiles) -> Part:
    """The controls of the table; the page fills it."""
    everyone = [
        tag("option", "any adapter", value=""),
        *(tag("option", name, value=name) for name in run.tribe),
    ]
    rounds = [tag("option", "any iteration", value="")]
    rounds += [tag("option", f"iteration {n + 1}", value=str(n + 1)) for n in range(len(run.iterations))]
    verdicts = [
        ("", "any verdict"),
        ("won", "with a winner"),
        ("drawn", "equal scores"),
        ("none", "no valid vote"),
        ("failed", "with failed votes"),
    ]
    controls = tag(
        "form",
        Html(
            '<input type="search" name="text" placeholder="Search questions and answers" aria-label="Search">'
        ),
        tag("select", *everyone, name="adapter", aria_label="Adapter"),
        tag("select", *rounds, name="iteration", aria_label="Iteration"),
        tag(
            "select",
            *(tag("option", said, value=key) for key, said in verdicts),
            name="verdict",
            aria_label="Verdict",
        ),
        id="filters",
    )
    count = sum(len(settled.duels) for settled in run.iterations)
    place = Html(
        '<p id="found" class="note" aria-live="polite">The duels appear when JavaScript runs.</p>'
        '<div id="list"></div><nav id="pages" aria-label="Pages of duels"></nav>'
    )
    return Part(section("duels", f"All {count:,} duels", controls, place), {})


def _again(run: RunFiles) -> Part:
    """How to get the same run once more."""
    config = shlex.quote(str(run.root / "config.yaml"))
    record = run.record
    command = f"sparta-lite run {config} --out runs/again"
    facts = {
        **record.versions,
        "device": record.device,
        "threads": str(record.threads),
        **record.choices,
    }
    hashes = [[name, tag("code", digest[:16])] for name, digest in record.hashes.items()]
    body = [
        paragraph("The settings below are complete. With these versions, on such a device, the run repeats."),
        tag("pre", command),
        table(["what", "version or choice"], [[name, value] for name, value in facts.items()], texts=2),
        folded("config.yaml", tag("pre", run.config)),
        folded("Inputs, by SHA-256", table(["input", "begins with"], hashes, texts=2)),
    ]
    if run.warnings:
        body.append(
            folded(f"Warnings ({len(run.warnings)})", tag("ul", *(tag("li", said) for said in run.warnings)))
        )
    return Part(section("again", "The same run again", *body), {})
