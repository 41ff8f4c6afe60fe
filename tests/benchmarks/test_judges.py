"""Wrong solutions are wrong by one slip alone, and what judges make of them is counted as it should be."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import PLAIN, Sampling

DATA = Path(__file__).with_name("solutions.jsonl")
ROWS = [json.loads(line) for line in DATA.read_text().splitlines()]
NUMBER = re.compile(r"\d[\d,]*\.?\d+|\d")
STEP = re.compile(r"<<(.+?)=(.+?)>>([\d.,]*\d)")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    # Ten thousand resamples of each figure would take most of the time.
    monkeypatch.setattr(module("pair_figures"), "bootstrap", lambda values: (min(values), max(values)))


def module(name: str) -> Any:
    return importlib.import_module(name)


def exact(written: str) -> Fraction:
    return Fraction(written.replace(",", ""))


def worked(sum_: str) -> Fraction:
    """The sum, worked out by Python in fractions."""
    found: Fraction = eval(re.sub(r"\d+\.?\d*", lambda each: f"Fraction('{each[0]}')", sum_))
    return found


def slips(row: dict[str, str], seeds: int = 40) -> set[str]:
    found = {module("slips").slip(row["question"], row["answer"], seed, 0) for seed in range(seeds)}
    assert None not in found
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["question"][:20])
def test_a_wrong_solution_has_one_false_step_and_another_answer(row: dict[str, str]) -> None:
    right = row["answer"]
    for wrong in slips(row):
        assert NUMBER.sub("0", wrong) == NUMBER.sub("0", right)
        assert exact(wrong.split("#### ")[1]) != exact(right.split("#### ")[1])
        steps = STEP.findall(wrong)
        assert len(steps) == right.count("<<")
        assert sum(worked(sum_) != exact(result) for sum_, result, _ in steps) == 1
        assert all(exact(result) == exact(shown) for _, result, shown in steps)
        assert exact(steps[-1][1]) == exact(wrong.split("#### ")[1])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["question"][:20])
def test_a_changed_result_is_carried_on_wherever_it_stands_and_nothing_else_changes(
    row: dict[str, str],
) -> None:
    right = row["answer"]
    for wrong in slips(row):
        pairs = list(zip(NUMBER.findall(right), NUMBER.findall(wrong), strict=True))
        results = zip(STEP.findall(right), STEP.findall(wrong), strict=True)
        changed = {exact(one[1]): exact(other[1]) for one, other in results if one[1] != other[1]}
        assert changed
        for one, other in pairs:
            assert exact(other) == changed.get(exact(one), exact(one))
            assert one == other or ("," in one) <= ("," in other or exact(other) < 1000)


def test_slips_are_those_that_somebody_makes_and_all_of_them_come_up() -> None:
    row = {"question": "What do 17 cards at $3 each cost?", "answer": "17*3=<<17*3=51>>51.\n#### 51"}
    expected = {49, 50, 52, 53} | {34, 68} | {48, 54}
    assert {int(wrong.split("#### ")[1]) for wrong in slips(row, 100)} == expected


def test_a_product_of_tens_errs_in_its_last_digit_that_is_not_zero() -> None:
    row = {"question": "A herd of 90 and one of 40?", "answer": "90+40=<<90+40=130>>130\n#### 130"}
    assert {int(wrong.split("#### ")[1]) for wrong in slips(row)} == {110, 120, 140, 150}


def test_one_seed_gives_one_solution() -> None:
    make = module("slips").make_pair
    pairs = [make(3, ROWS[3]["question"], ROWS[3]["answer"], 7) for _ in range(2)]
    assert pairs[0] == pairs[1]
    assert {make(number, ROWS[3]["question"], ROWS[3]["answer"], 7).wrong for number in range(30)} > {
        pairs[0].wrong
    }


def test_neither_solution_shows_annotations() -> None:
    pair = module("slips").make_pair(0, ROWS[0]["question"], ROWS[0]["answer"], 0)
    assert pair.right == (
        "Nora bakes 7 * 8 = 56 rolls.\nAfter giving some away she has 56 - 9 = 47 rolls left.\n"
        "The answer is 47."
    )
    assert not re.search("<<|>>|####", pair.wrong)


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("6 and 7?", "It is 13.\n#### 13", "no annotation"),
        ("6 and 7?", "6+7=<<6+7=13>>13", "no answer"),
        ("6 and 7?", "6+7=<<6+7=14>>14\n#### 14", "not true"),
        ("6 and 7?", "6+7=<<6+7=13>>13\n#### 12", "another answer than the last step's"),
        ("6 and 7?", "<<abs(6)+7=13>>13\n#### 13", "no plain sum"),
        ("6 and 7, or 13?", "6+7=<<6+7=13>>13\n#### 13", "a number of the question"),
        ("6 and six, or twelve?", "6+6=<<6+6=12>>12\n#### 12", "a number of the question, in words"),
        ("6 and 7?", "About 13: 6+7=<<6+7=13>>13\n#### 13", "stood there before"),
        ("6 and 7?", "6+7=<<6+7=13>> thirteen\n#### 13", "not written behind the annotation"),
        ("2x is 26?", "x=<<13=13>>13\n#### 13", "a number alone is no sum"),
        ("6 and 5?", "6-5=<<6-5=1>>1\n#### 1", "nothing between its half and its double"),
    ],
)
def test_a_question_that_the_rule_cannot_serve_is_left_out(question: str, answer: str, why: str) -> None:
    assert all(module("slips").slip(question, answer, seed, 0) is None for seed in range(20)), why


@pytest.fixture(scope="module")
def judge(base_path: Path) -> tuple[Base, Bank]:
    base = load_base(base_path, torch.device("cpu"))
    unused = [Adapter("unused", 1, 1.0, False, ("self_attn.q_proj",))]
    return base, empty_bank(base.decoder, unused, torch.float32)


def test_rounds_that_share_the_prompt_draw_the_tokens_of_generate(judge: tuple[Base, Bank]) -> None:
    base, bank = judge
    base = replace(base, stops=base.stops | set(range(40)))  # rows of many lengths
    prompts = [tuple(range(60, 60 + length)) for length in (7, 40, 3, 21, 22)]
    keys = [[1000 * number + each for each in range(3)] for number in range(5)]
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.95)
    ours = module("rounds").sampled_rounds(base, bank, prompts, keys, sampling, 16, 7)
    asked = [Prompt(None, ids, each) for ids, own in zip(prompts, keys, strict=True) for each in own]
    theirs = [each.text for each in generate(base, bank, asked, sampling, 16, 64)]
    assert len({len(text) for text in theirs}) > 3
    assert [text for own in ours.texts for text in own] == theirs


def test_a_measurement_goes_on_where_it_was_stopped(
    judge: tuple[Base, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = module("judges")
    monkeypatch.setattr(judges, "PART", 2)
    judge_of = judges.Judges(*judge, 4)
    facts = {"model": "tiny", "dtype": "float32", "quantization": "none", "settings": {}}
    pairs = judges.read_pairs(DATA, 4)
    assert [pair.row for pair in pairs] == [0, 1, 2, 3]
    whole = judges.measure(judge_of, pairs, 2, facts, tmp_path / "whole.json")
    path = tmp_path / "parts.json"
    judges.measure(judge_of, pairs[:2], 2, facts, path)
    report = judges.measure(judge_of, pairs, 2, facts, path)
    assert report == json.loads(path.read_text())
    assert [part["pairs"] for part in report["parts"]] == [part["pairs"] for part in whole["parts"]]
    assert [(part["method"], len(part["pairs"])) for part in report["parts"]] == (
        [("pass", 2)] * 2 + [("rounds", 2)] * 2 + [("pass", 2)] * 2
    )
    for way in ("by_pass", "by_rounds"):  # nothing is left to do
        monkeypatch.setattr(judges.Judges, way, None)
    assert judges.measure(judge_of, pairs, 2, facts, path) == report
    with pytest.raises(SpartaError, match="another dtype"):
        judges.measure(judge_of, pairs, 2, {**facts, "dtype": "bfloat16"}, path)


def test_both_readings_of_a_pass_are_those_of_expected_scores(judge: tuple[Base, Bank]) -> None:
    judges = module("judges")
    base, bank = judge
    (pair,) = judges.read_pairs(DATA, 1)
    (found,) = judges.Judges(base, bank, 4).by_pass("turns", [pair])["pairs"]
    chat = Chat(base.tokenizer, None, "turns", judges.JUDGE_REQUESTS["turns"], ending=base.ending)
    for name, sampling in (("plain", PLAIN), ("cut", judges.SAMPLING)):
        for side, text in enumerate((pair.right, pair.wrong)):
            paper = chat.judge(pair.question, chat.text(text), 2048)
            assert paper is not None
            prompt = Prompt(None, paper.ids)
            (score,) = expected_scores(base, bank, [prompt], chat.score_tokens, 0.0, 64, sampling=sampling)
            assert found[name][side] == pytest.approx(score.value, abs=1e-4)


def test_figures_by_hand() -> None:
    figures = module("pair_figures")
    passed = [
        {"row": 4, "plain": [7, 6], "cut": [8, 8], "mass": [0.5, 1.0], "prefix": [-1.0, -3.0]},
        {"row": 9, "plain": [5, 6], "cut": [None, 8], "mass": [0.5, 1.0], "prefix": [-1.0, -3.0]},
        {"row": 11, "plain": [2, 1], "cut": [2, 1], "mass": [0.5, 1.0], "prefix": [-1.0, -3.0]},
    ]
    asked = [
        {"row": 4, "rounds": [[None, 9], [5, None]]},
        {"row": 9, "rounds": [[4, 8], [4, 6]]},
    ]
    found = figures.summary(
        [
            {"method": "rounds", "pairs": asked, "seconds": {"reading": 8.0, "writing": 2.0}},
            {"method": "pass", "pairs": passed, "seconds": {"pass": 6.0}, "tokens": 60},
        ]
    )
    counts = {
        name: [row[each] for each in ("right", "wrong", "ties", "none")]
        for name, row in found["methods"].items()
    }
    assert counts == {
        "pass": [2, 1, 0, 0],
        "pass, cut": [1, 0, 1, 1],
        "1 round": [0, 0, 1, 1],
        "5 rounds": [2, 0, 0, 0],
    }
    five = found["methods"]["5 rounds"]
    assert (five["accuracy"][0], five["less_pass"][0], five["means"]) == (1.0, 0.5, [7.5, 5.0])
    assert five["less_pass"][1:] == [0.0, 1.0]
    assert found["methods"]["pass, cut"]["accuracy"][0] == pytest.approx(2 / 3)
    assert (five["seconds"], five["seconds_apart"]) == (2.5, 4.5)
    assert (found["parsed"][0], found["mass"], found["prefix"], found["tokens"]) == (0.75, 0.75, -2.0, 10.0)


def test_a_pass_alone_has_figures_too() -> None:
    figures = module("pair_figures")
    pair = {"row": 4, "plain": [7, 6], "cut": [8, 8], "mass": [0.5, 1.0], "prefix": [-1.0, -3.0]}
    found = figures.summary([{"method": "pass", "pairs": [pair], "seconds": {"pass": 6.0}, "tokens": 60}])
    assert list(found["methods"]) == ["pass", "pass, cut"]
    assert (found["rounds"], found["parsed"], found["methods"]["pass"]["seconds"]) == (0, None, 3.0)
    figures.print_summary(Console(), "turns", found)
