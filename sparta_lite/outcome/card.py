"""The model card of an exported adapter: what its run really measured, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparta_lite.campaign.hostility import titled
from sparta_lite.campaign.intervals import wilson
from sparta_lite.campaign.metrics import TaskFigures, Trained, evaluations, of_kind, who_learns
from sparta_lite.campaign.provenance import GGUF_FILE
from sparta_lite.campaign.settings import POCKET
from sparta_lite.engine.gguf_file import HUB_FILE, gguf_file
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.finished import Finished, best_adapter, merits
from sparta_lite.typed import RESTORE

_SHOWN = ("sparta-lite", "torch", "transformers", "peft")
_TAGS = {
    "sparta": ["sparta-alignment", "dpo"],
    "self-rewarding": ["self-rewarding", "dpo"],
    "spin": ["spin", "dpo"],
    "sppo": ["sppo"],
}
"""Per algorithm; SPPO has a loss of its own."""
_JUDGED = {
    "self-rewarding": "the learner judges alone",
    "spin": "nobody judges",
    "sppo": "all judges weigh the same",
}
"""Of the baselines, which no reputation weighs."""


def model_card(finished: Finished, name: str, form: str, merged_into: str | None = None) -> str:
    """Markdown with the hub's YAML on top.

    Args:
        finished: the run.
        name: the adapter.
        form: ``peft``, ``merged`` or ``gguf-lora``.
        merged_into: of a merged model the base, which need not be the run's.

    Raises:
        SpartaError: the run's metrics are damaged.
    """
    config, versions = finished.config, finished.store.read_run().versions
    iterations = "1 iteration" if config.iterations == 1 else f"{config.iterations} iterations"
    held = "in 4 bits (NF4)" if config.quantization == "nf4" else "unquantised"
    trained = [row for row in of_kind(finished.metrics(), Trained) if row.iteration < finished.iteration]
    if len(trained) < finished.iteration:
        raise SpartaError(f"{finished.store.metrics}: lacks what an iteration's training came to; {RESTORE}")
    pairs = sum(row.pairs for row in trained)
    lines = [
        "---",
        yaml.safe_dump(_metadata(finished, form), sort_keys=False).rstrip(),
        *_not_on_the_hub(config.base),
        "---",
        "",
        f"# {name}",
        "",
        f"The adapter `{name}` of a tribe of {len(finished.tribe)}, after {finished.iteration} of "
        f"{iterations} of {_method(finished)}, made with sparta-lite.",
        "",
        *_dequantised(merged_into),
        "| run | |",
        "| --- | --- |",
        f"| base | {_name(config.base)}{_file_hash(finished)}, {held} |",
        f"| tribe | {', '.join(titled(each, finished.hostile) for each in finished.tribe)} |",
        f"| seed | {config.seed} |",
        f"| iterations | {finished.iteration} |",
        f"| duels | {finished.iteration * config.duels} |",
        f"| preference pairs | {pairs} |",
        f"| constants | {_constants(finished)} |",
        f"| versions | {', '.join(f'{key} {versions[key]}' for key in _SHOWN if key in versions)} |",
        "",
        "## Held-out evaluation",
        "",
        *_evaluation(finished, name),
    ]
    return "\n".join(lines) + "\n"


def _constants(finished: Finished) -> str:
    config, training = finished.config, finished.config.training
    weights = config.reputation.settings().reading.judge_weights
    judged = _JUDGED.get(config.algorithm, f"what weighs the judges: {weights}")
    return (
        f"learning rate {training.learning_rate:g}, beta {training.beta:g}, "
        f"sft_weight {training.sft_weight:g}; {judged}"
    )


def _metadata(finished: Finished, form: str) -> dict[str, Any]:
    """What the hub reads: it takes ids of its own for ``base_model`` alone, and refuses a path."""
    base = finished.config.base
    relation = "finetune" if form == "merged" else "adapter"
    repository = on_hub[1] if (on_hub := HUB_FILE.fullmatch(base)) else base
    known = {"base_model": repository, "base_model_relation": relation} if _is_on_the_hub(base) else {}
    library = {"peft": "peft", "merged": "transformers"}.get(form)
    what = {"gguf-lora": ["gguf", "lora"], "peft": ["lora"]}.get(form, [])
    return {
        **known,
        **({"library_name": library} if library else {}),
        "pipeline_tag": "text-generation",
        "tags": ["sparta-lite", *_TAGS[finished.config.algorithm], *what],
    }


def _is_on_the_hub(base: str) -> bool:
    return base != POCKET and not Path(base).is_absolute()


def _not_on_the_hub(base: str) -> list[str]:
    """A comment in the YAML of a base that the hub does not have: a bare name would be some other model's."""
    if _is_on_the_hub(base):
        return []
    if base == POCKET:
        return ["# base_model: the pocket base, which comes with sparta-lite and is not on the hub"]
    return [f"# base_model: the local {_kind(base)} {_name(base)}; put its id here if the hub has it"]


def _kind(base: str) -> str:
    return "file" if Path(base).suffix.lower() == ".gguf" else "directory"


def _dequantised(merged_into: str | None) -> list[str]:
    """What a merged model is whose base was quantised for llama.cpp."""
    packed = gguf_file(merged_into) if merged_into else None
    if packed is None:
        return []
    return [
        f"Merged into the dequantised weights of `{packed.name}`, in float32: those that the file holds, "
        "not those that it was quantised from.",
        "",
    ]


def _file_hash(finished: Finished) -> str:
    """Of a base in GGUF form: its name says little."""
    found = finished.store.read_run().hashes.get(GGUF_FILE)
    return f" (GGUF, SHA-256 `{found}`)" if found else ""


def _method(finished: Finished) -> str:
    algorithm = finished.config.algorithm
    if algorithm == "sparta":
        paper = "[arXiv 2506.04721](https://arxiv.org/abs/2506.04721)"
        return f"SPARTA alignment ({paper}: duels, judgments by the others, DPO on all pairs)"
    learned = who_learns(finished.metrics()) or ("one adapter",)
    return f"the baseline {algorithm}, in which {learned[0]} learns alone"


def _evaluation(finished: Finished, name: str) -> Iterator[str]:
    measured = evaluations(finished.metrics())
    first, last = measured.get(0), measured.get(finished.iteration)
    if last is None:
        yield f"Nothing was measured after iteration {finished.iteration}."
        return
    yield (
        "Greedy answers: accuracy, or for judged tasks the mean score from 1 to 10 that the bare base gives. "
        "Best init is the initial adapter that did best, hostile ones left out. Interval: 95 %, Wilson's "
        "over the questions, of the figure before it; a mean score has none here."
    )
    yield ""
    yield from _picked(finished, name)
    yield f"| task | n | {name} before | {name} now | interval | best init | bare base |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for index, task in enumerate(last.tasks):
        before = first.tasks[index].accuracy if first else {}
        best = _best({each: value for each, value in before.items() if each not in finished.hostile})
        yield (
            f"| {task.task} | {task.items} | {_figure(before.get(name))} | "
            f"{_figure(task.accuracy[name])} | {_interval(task, name)} | {best} | "
            f"{_figure(task.base)} |"
        )


def _picked(finished: Finished, name: str) -> Iterator[str]:
    """What the best of several owes to chance is said with it."""
    rivals = len(merits(finished))
    if rivals > 1 and best_adapter(finished) == name:
        yield (
            f"{name} was picked, or would be, as the best of {rivals} adapters on these very questions: its "
            "figure flatters, more than the interval shows."
        )
        yield ""


def _interval(task: TaskFigures, name: str) -> str:
    value = task.accuracy[name]
    if task.judged or value is None:
        return "–"
    low, high = wilson(value * task.items, task.items)
    return f"{low:.3f} to {high:.3f}"


def _best(values: Mapping[str, float | None]) -> str:
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return _figure(None)
    best = max(known, key=lambda name: known[name])
    return f"{_figure(known[best])} ({best})"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _name(base: str) -> str:
    """A hub id as it is; of a directory its name alone, for a card may go where the path means nothing."""
    return Path(base).name if Path(base).is_absolute() else base
