"""Hostile adapters spoil what comes back from them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.hostility import hostile, spoiled_answer, spoiled_score
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.engine.response import Response
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines

TRIBE = ("ada", "ben", "cyd")
Make = Callable[[str | None], Store]


@pytest.fixture(scope="module")
def made(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """One iteration with ``cyd`` hostile in some way; None: in none."""
    runs: dict[str | None, Store] = {}

    def make(kind: str | None) -> Store:
        if kind not in runs:
            out = tmp_path_factory.mktemp("hostile") / "run"
            sets = ["iterations=1", "evaluation.items=0"]
            sets += [] if kind is None else ["tribe.hostile=1", f"tribe.hostile_kind={kind}"]
            run(load_config(tiny_config, sets), out, False, lambda event: None)
            runs[kind] = Store(out)
        return runs[kind]

    return make


def answers(store: Store) -> dict[tuple[int, str], dict[str, Any]]:
    return {
        (row["duel"], name): response
        for row in read_lines(store.duels(0))
        for name, response in zip(row["fighters"], row["responses"], strict=True)
    }


def votes(store: Store) -> dict[tuple[int, str], list[float]]:
    return {(row["duel"], row["judge"]): row["scores"] for row in read_lines(store.judgments(0))}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverted", [(1.0, 10.0), (10.0, 1.0), (5.5, 5.5), (7.25, 3.75)]),
        ("loud", [(1.0, 10.0), (10.0, 1.0), (5.5, 5.5), (6.0, 4.0), (4.75, 7.75), (7.25, 1.0), (3.9, 10.0)]),
        ("garbage", [(1.0, 1.0), (7.25, 7.25)]),
    ],
)
def test_scores_value_by_value(tiny_config: Path, kind: str, expected: list[tuple[float, float]]) -> None:
    config = load_config(tiny_config, ["tribe.hostile=1", f"tribe.hostile_kind={kind}"])
    for given, counted in expected:
        assert spoiled_score(config, TRIBE, "cyd", given) == pytest.approx(counted, abs=1e-12)
        assert spoiled_score(config, TRIBE, "ben", given) == given
    assert spoiled_score(config, TRIBE, "cyd", None) is None


@pytest.mark.parametrize("kind", ["inverted", "loud", "garbage", "loud-garbage"])
def test_a_hostile_judge_scores_as_its_kind_says(made: Make, kind: str) -> None:
    """In duels of the others, whose answers are those of a run without it."""
    healthy, spoiled = votes(made(None)), votes(made(kind))
    assert healthy.keys() == spoiled.keys()
    of_cyd = [place for place in healthy if place[1] == "cyd"]
    assert len(of_cyd) >= 2
    for place in of_cyd:
        for was, counted in zip(healthy[place], spoiled[place], strict=True):
            expected = {"inverted": 11 - was, "garbage": was}.get(kind, 22 - 3 * was)
            assert counted == pytest.approx(min(10, max(1, expected)), abs=1e-5)


@pytest.mark.parametrize("kind", ["inverted", "loud"])
def test_hostile_judges_change_no_answer_and_no_other_vote(made: Make, kind: str) -> None:
    healthy, spoiled = made(None), made(kind)
    assert healthy.duels(0).read_bytes() == spoiled.duels(0).read_bytes()
    for place, scores in votes(healthy).items():
        assert place[1] == "cyd" or votes(spoiled)[place] == scores


@pytest.mark.parametrize("kind", ["loud-garbage", "garbage"])
def test_garbage_is_random_text_as_long_as_an_answer(made: Make, kind: str, base_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    special = set(tokenizer.all_special_ids)
    healthy, spoiled = answers(made(None)), answers(made(kind))
    drawn: list[int] = []
    for place, was in healthy.items():
        now = spoiled[place]
        if place[1] != "cyd":
            assert now["ids"] == was["ids"]
            continue
        assert [token for token in now["ids"] if token in special] == [
            token for token in was["ids"] if token in special
        ]
        assert len(now["ids"]) == len(was["ids"])
        assert now["ids"] != was["ids"]
        assert now["text"] == tokenizer.decode(now["ids"], skip_special_tokens=True)
        assert (now["stop"], now["logprob"]) == (was["stop"], None)
        drawn += now["ids"]
    assert len(set(drawn)) > len(drawn) / 2


def test_garbage_depends_on_its_place_alone(tiny_config: Path, base_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    config = load_config(tiny_config, ["tribe.hostile=1", "tribe.hostile_kind=garbage"])
    end = tokenizer.eos_token_id
    answer = Response((*[7] * 400, end), "g" * 400, "end-of-turn", -3.0)

    def garbage(iteration: int, duel: int) -> Response:
        return spoiled_answer(config, TRIBE, tokenizer, (iteration, duel, "cyd"), answer)

    assert garbage(0, 1) == garbage(0, 1)
    assert len({garbage(*place).ids for place in ((0, 0), (0, 1), (1, 0))}) == 3
    # 256 bytes are the tokenizer's whole vocabulary of text; the base's embedding has rows beyond it.
    assert garbage(0, 1).ids[-1] == end
    assert set(garbage(0, 1).ids[:-1]) <= set(range(256))
    assert len(set(garbage(0, 1).ids)) > 150
    assert spoiled_answer(config, TRIBE, tokenizer, (0, 1, "ben"), answer) is answer


def test_hostile_adapters_learn_like_everyone(made: Make, adapter_paths: dict[str, Path]) -> None:
    for name, place in adapter_paths.items():
        now = load_file(made("loud-garbage").adapters(0) / name / "adapter_model.safetensors")
        was = load_file(place / "adapter_model.safetensors")
        assert max(float((now[key] - was[key]).abs().max()) for key in was) > 1e-5, name


def test_a_run_says_who_is_hostile(made: Make) -> None:
    for kind, names in ((None, []), ("loud", ["cyd"])):
        store = made(kind)
        assert read_json(store.run)["hostile"] == names
        assert (
            next(row for row in read_lines(store.events) if row["event"] == "RunStarted")["hostile"] == names
        )


def test_the_last_of_the_tribe_are_hostile(tiny_config: Path, tmp_path: Path) -> None:
    for count, names in ((0, ()), (1, ("cyd",)), (2, ("ben", "cyd"))):
        assert hostile(load_config(tiny_config, [f"tribe.hostile={count}"]), TRIBE) == names
    with pytest.raises(SpartaError, match="is 3, and the tribe has 3; leave at least one"):
        run(load_config(tiny_config, ["tribe.hostile=3"]), tmp_path / "run", False, lambda event: None)
