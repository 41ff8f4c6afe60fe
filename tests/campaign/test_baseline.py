"""One adapter that learns alone, in a run's ordinary files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from sparta_lite.campaign.baseline import learners, win_rates
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import RunStarted
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.metrics import read_metric
from sparta_lite.campaign.records import Judgment
from sparta_lite.campaign.store import Store
from sparta_lite.combat import Duel, Preference
from sparta_lite.commands.app import app
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines
from sparta_lite.pocket import items
from sparta_lite.training.phase import batches

from ..run_files import evaluation, task_figures

BETA, BATCH = 0.1, 2
Make = Callable[[str], Store]


@pytest.fixture(scope="module")
def made(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The finished run of an algorithm in which ``ben`` learns alone."""
    runs: dict[str, Store] = {}

    def make(algorithm: str) -> Store:
        if algorithm not in runs:
            out = tmp_path_factory.mktemp("baselines") / algorithm
            sets = [f"algorithm={algorithm}", "baseline.adapter=ben", "evaluation.items=0"]
            run(load_config(tiny_config, sets), out, False, lambda event: None)
            runs[algorithm] = Store(out)
        return runs[algorithm]

    return make


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


BASELINES = pytest.mark.parametrize("algorithm", ["self-rewarding", "spin", "sppo"])


@BASELINES
def test_the_learner_alone_moves(made: Make, algorithm: str, adapter_paths: dict[str, Path]) -> None:
    after = made(algorithm).adapters(1)
    for name, place in adapter_paths.items():
        moved = max(
            float((weights(after / name)[key] - value).abs().max()) for key, value in weights(place).items()
        )
        assert (moved > 1e-5) == (name == "ben"), name
        assert name == "ben" or moved == 0


@BASELINES
def test_it_faces_itself_over_the_instructions_of_sparta(
    made: Make, algorithm: str, tiny_config: Path, tmp_path: Path
) -> None:
    run(
        load_config(tiny_config, ["iterations=1", "evaluation.items=0"]),
        tmp_path / "s",
        False,
        lambda e: None,
    )
    asked = [row["text"] for row in read_lines(Store(tmp_path / "s").duels(0))]
    rows = read_lines(made(algorithm).duels(0))
    assert [row["text"] for row in rows] == asked
    assert all(row["fighters"] == ["ben", "ben"] for row in rows)
    # Both sides draw for themselves: six random tokens out of 320 are hardly ever the same twice.
    assert sum(row["responses"][0]["ids"] != row["responses"][1]["ids"] for row in rows) >= 9


@pytest.mark.parametrize(
    ("algorithm", "panel"), [("self-rewarding", ["ben"]), ("spin", []), ("sppo", ["ada", "cyd"])]
)
def test_who_judges(made: Make, algorithm: str, panel: list[str]) -> None:
    found: dict[int, list[str]] = {duel: [] for duel in range(10)}
    for row in read_lines(made(algorithm).judgments(0)):
        found[row["duel"]].append(row["judge"])
    assert all(names == panel for names in found.values())


@BASELINES
def test_nobodys_reputation_moves(made: Make, algorithm: str) -> None:
    after = read_json(made(algorithm).reputation(1))["after"]
    assert after["iteration"] == 2
    assert {rating["reputation"] for rating in after["ratings"].values()} == {100.0}


@BASELINES
def test_a_duel_with_oneself_is_neither_won_nor_lost(made: Make, algorithm: str) -> None:
    tally = read_json(made(algorithm).reputation(1))["tally"]
    assert tally == {name: {"wins": 0, "losses": 0, "draws": 0} for name in ("ada", "ben", "cyd")}


@BASELINES
def test_who_learns_is_told_before_the_first_duel(made: Make, algorithm: str) -> None:
    told = read_lines(made(algorithm).events)
    kinds = [row["event"] for row in told]
    assert [row["adapter"] for row in told if row["event"] == "LearnsAlone"] == ["ben"]
    assert kinds.index("LearnsAlone") < kinds.index("DuelDecided")


@pytest.mark.parametrize("algorithm", ["self-rewarding", "sppo"])
def test_the_higher_mean_is_chosen(made: Make, algorithm: str) -> None:
    store = made(algorithm)
    votes: dict[int, list[list[float]]] = {}
    for row in read_lines(store.judgments(0)):
        votes.setdefault(row["duel"], []).append(row["scores"])
    rows = {row["duel"]: row for row in read_lines(store.duels(0))}
    pairs = read_lines(store.preferences(0))
    assert len(pairs) >= 9
    for pair in pairs:
        first, second = (sum(scores) / len(scores) for scores in zip(*votes[pair["duel"]], strict=True))
        chosen, rejected = rows[pair["duel"]]["responses"][:: 1 if first > second else -1]
        assert pair["margin"] == pytest.approx(abs(first - second), abs=1e-12)
        assert pair["chosen"][0]["content"] == chosen["text"]
        assert pair["rejected"][0]["content"] == rejected["text"]


def test_a_margin_holds_for_baselines_too(made: Make, tiny_config: Path, tmp_path: Path) -> None:
    margins = sorted(pair["margin"] for pair in read_lines(made("sppo").preferences(0)))
    least = (margins[4] + margins[5]) / 2
    sets = ["algorithm=sppo", "baseline.adapter=ben", "evaluation.items=0", "iterations=1"]
    run(
        load_config(tiny_config, [*sets, f"pairs.minimum_margin={least!r}"]),
        tmp_path / "r",
        False,
        lambda e: None,
    )
    kept = read_lines(Store(tmp_path / "r").preferences(0))
    assert sorted(pair["margin"] for pair in kept) == margins[5:]


def test_spin_prefers_the_reference_in_the_models_own_tokens(made: Make, base_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    answers = {item.question: item.answer for item in items("duel", 2400)}
    store = made("spin")
    for row in read_lines(store.duels(1)):
        reference, own = row["responses"]
        whole = tokenizer(f"{answers[row['text']]}<|im_end|>", add_special_tokens=False)["input_ids"]
        assert reference == {
            "ids": whole[:6],  # generation.max_new_tokens
            "text": answers[row["text"]],
            "stop": "reference",
            "logprob": None,
        }
        assert own["stop"] != "reference"
    for pair in read_lines(store.preferences(1)):
        assert pair["chosen"][0]["content"] in answers.values()


def test_sppo_learns_by_the_share_of_the_votes(made: Make) -> None:
    """Before the first update no ratio has moved: the loss is what the win rates alone make it."""
    store = made("sppo")
    votes: dict[int, list[list[float]]] = {}
    for row in read_lines(store.judgments(0)):
        votes.setdefault(row["duel"], []).append(row["scores"])
    losses = []
    for pair in read_lines(store.preferences(0)):
        share = sum(first > second for first, second in votes[pair["duel"]]) / 2
        losses.append(2 * ((share - 0.5) / BETA) ** 2)
    assert {0.0, 50.0} == set(losses)
    first = batches(len(losses), BATCH, 0, 0, 0)[0]
    step = next(row for row in read_lines(store.metrics) if row["kind"] == "training")
    assert (step["adapter"], step["step"]) == ("ben", 0)
    assert step["loss"] == pytest.approx(sum(losses[index] for index in first) / BATCH, abs=1e-3)


def test_win_rates_are_shares_of_valid_votes_with_ties_in_half() -> None:
    def vote(duel: int, *scores: float | None) -> Judgment:
        first, second = scores
        return Judgment(duel, "j", (first, second), (None, None), (None, None), (0, 0), (None, None))

    pairs = [Preference(Duel(index, index, ("a", "a")), (0, 0), chosen) for index, chosen in ((3, 0), (5, 1))]
    votes = [vote(3, 9, 1), vote(3, 4, 5), vote(3, None, 7), vote(3, 2, 2), vote(4, 1, 9), vote(5, 1, 2)]
    assert win_rates(votes, pairs) == [0.5, 1.0]
    assert win_rates([*votes, vote(5, 3, 2), vote(5, 3, 1), vote(5, 4, 4)], pairs) == [0.5, 0.375]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("self-rewarding", {"generated": 20, "reference_answers": 0, "judgments": 20}),
        ("spin", {"generated": 10, "reference_answers": 10, "judgments": 0}),
        ("sppo", {"generated": 20, "reference_answers": 0, "judgments": 40}),
    ],
)
def test_the_budget_is_written_down(made: Make, algorithm: str, expected: dict[str, int]) -> None:
    store = made(algorithm)
    metrics = read_lines(store.metrics)
    for iteration in range(2):
        steps = -(-len(read_lines(store.preferences(iteration))) // BATCH)
        trained = [row for row in metrics if row["kind"] == "training" and row["iteration"] == iteration]
        assert [row["step"] for row in trained] == list(range(steps))
        assert [row for row in metrics if row["kind"] == "budget" and row["iteration"] == iteration] == [
            {
                "kind": "budget",
                "iteration": iteration,
                "learners": ["ben"],
                **expected,
                # The warm-up begins at rate 0, which moves nothing.
                "optimizer_steps": sum(row["learning_rate"] > 0 for row in trained),
            }
        ]


def test_the_best_healthy_adapter_at_the_start_learns(tiny_config: Path) -> None:
    def learner(*sets: str) -> tuple[str, ...]:
        tasks = [
            task_figures("marked", {"ada": 0.5, "ben": 0.5, "cyd": 0.75}),
            task_figures("judged", {"ada": 5.5, "ben": 7.75, "cyd": 9.1}, judged=True),
        ]
        later = [task_figures("marked", {"ada": 1.0, "ben": 0.0, "cyd": 0.0})]
        measured = [evaluation(0, tasks), evaluation(1, later)]
        rows = [read_metric(json.dumps(row).encode(), "metrics.jsonl") for row in measured]
        config = load_config(tiny_config, ["algorithm=spin", *sets])
        arena: Any = SimpleNamespace(
            config=config, tribe=("ada", "ben", "cyd"), metrics=SimpleNamespace(rows=rows)
        )
        return learners(arena)

    assert learner() == ("cyd",)
    assert learner("tribe.hostile=1") == ("ben",)
    assert learner("baseline.adapter=ada") == ("ada",)
    assert learner("algorithm=sparta") == ("ada", "ben", "cyd")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["evaluation.items=0"], "nothing is measured, so that none is best; name one"),
        (["baseline.adapter=dan"], "baseline.adapter: dan is not in the tribe; give one of ada, ben, cyd"),
        (["baseline.adapter=cyd", "tribe.hostile=1"], "baseline.adapter: cyd is one of the hostile adapters"),
    ],
)
def test_a_learner_that_is_none_is_refused_before_any_work(
    tiny_config: Path, tmp_path: Path, sets: list[str], said: str
) -> None:
    with pytest.raises(SpartaError, match=said):
        run(load_config(tiny_config, ["algorithm=sppo", *sets]), tmp_path / "run", False, lambda event: None)
    assert not (tmp_path / "run").exists()


def test_spin_is_refused_without_reference_answers(tiny_config: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "answer": "yes"}) + "\n" for text in ("one", "two")))
    sets = [f"data.path={rows}", "data.column=text", "baseline.adapter=ada", "evaluation.items=0"]
    with pytest.raises(SpartaError, match="2 of 2 instructions have none"):
        run(load_config(tiny_config, ["algorithm=spin", *sets]), tmp_path / "run", False, lambda event: None)
    assert not (tmp_path / "run").exists()


def test_spin_takes_the_answers_of_a_task(tiny_config: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"question": f"What is {n} + 1?", "answer": f"It is so. #### {n + 1}"} for n in range(30)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets = [
        "data.task=gsm8k",
        f"data.path={rows}",
        "baseline.adapter=ada",
        "evaluation.items=0",
        "iterations=1",
    ]
    run(load_config(tiny_config, ["algorithm=spin", *sets]), tmp_path / "run", False, lambda event: None)
    for row in read_lines(Store(tmp_path / "run").duels(0)):
        asked = int(row["text"].split("What is ")[1].split(" ")[0])
        assert row["responses"][0]["text"] == str(asked + 1)


@pytest.mark.parametrize("trainer", ["trl", "unsloth"])
def test_trainers_without_win_rates_are_refused_for_sppo(tiny_config: Path, trainer: str) -> None:
    with pytest.raises(SpartaError, match=f"training.trainer: {trainer} does not take SPPO's win rates"):
        load_config(tiny_config, ["algorithm=sppo", f"training.trainer={trainer}"])
    load_config(tiny_config, ["algorithm=self-rewarding", f"training.trainer={trainer}"])


def test_a_baseline_is_named_and_not_replayed(made: Make) -> None:
    store = made("spin")
    assert read_json(store.run)["algorithm"] == "spin"
    started = next(row for row in read_lines(store.events) if row["event"] == RunStarted.__name__)
    assert (started["algorithm"], started["hostile"]) == ("spin", [])
    result = CliRunner().invoke(app, ["replay", str(store.root)])
    assert result.exit_code == 2
    assert "was run with algorithm spin, whose pairs follow no reputation" in " ".join(result.output.split())
