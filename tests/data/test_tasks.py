"""The paper's tasks in both their forms: what is asked, what is the answer, who sees which question."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

import sparta_lite.data.tasks
from sparta_lite.data.tasks import TASKS, load_task, load_task_instructions
from sparta_lite.errors import SpartaError

SECRET = "SECRET"  # stands in every column that holds an answer or its explanation, beside the answer

LABELS = ("yes", "no", "neutral")


def problem(n: int) -> dict[str, Any]:
    return {"question": f"Ann has {n} eggs. How many?", "answer": f"{SECRET}: she has {n}.\n#### {n}"}


def mathematics(n: int) -> dict[str, Any]:
    return {
        "problem": f"What is $\\sqrt{{{n * n}}}$?",
        "level": f"Level {n % 5 + 1}",
        "type": "Algebra",
        "solution": f"{SECRET} $\\boxed{{0}}$, no: $\\boxed{{\\frac{{{n}}}{{1}}}}$.",
    }


def patient(n: int) -> dict[str, Any]:
    options = {"A": "Aspirin", "B": "Insulin", "C": "Rest", "D": f"{n} eggs"}
    return {
        "question": f"A patient of {n} years is tired. What helps?",
        "answer": SECRET,
        "options": options,
        "meta_info": "step1",
        "answer_idx": "ABCD"[n % 4],
        "metamap_phrases": [SECRET],
    }


def norm(n: int) -> dict[str, Any]:
    return {
        "ID": n,
        "Country": "north_land",
        "Background": "- Greet everybody.",
        "Axis": "Greeting",
        "Subaxis": "Greeting",
        "Value": "Respect matters.",
        "Rule-of-Thumb": "Wave back.",
        "Story": f"Bob meets {n} people and waves. Is that acceptable?",
        "Explanation": SECRET,
        "Gold Label": LABELS[n % 3],
    }


def request(n: int) -> dict[str, Any]:
    return {
        "instruction": f"Name {n} birds.",
        "input": "" if n % 2 else "No owls.",
        "output": SECRET,
        "text": SECRET,
    }


def belief(n: int) -> dict[str, Any]:
    return {
        "type": SECRET,
        "category": SECRET,
        "question": f"Is {n} lucky?",
        "best_answer": f"{SECRET} no",
        "correct_answers": [f"No number is, nor {n}.", "No."],
        "incorrect_answers": [f"{n} is.", "Very.", "On Fridays."],
        "source": SECRET,
    }


HUB = {
    "openai/gsm8k": (problem, ("train", "test")),
    "DigitalLearningGmbH/MATH-lighteval": (mathematics, ("train", "test")),
    "GBaker/MedQA-USMLE-4-options": (patient, ("train", "test")),
    "akhilayerukola/NormAd": (norm, ("train",)),
    "tatsu-lab/alpaca": (request, ("train",)),
    "truthfulqa/truthful_qa": (belief, ("validation",)),
}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """The hub's datasets in small, split for split; returns what is asked of it."""
    asked = []

    def load_dataset(path: str, name: str | None = None) -> Any:
        asked.append((path, name))
        row, splits = HUB[path]
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list([row(n) for n in range(60 * place, 60 * place + 60)])
                for place, split in enumerate(splits)
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def refusal(load: Any, *args: Any, **how: Any) -> str:
    with pytest.raises(SpartaError) as caught:
        load(*args, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_task_is_documented() -> None:
    assert sparta_lite.data.tasks.__doc__ is not None
    table = sparta_lite.data.tasks.__doc__.split("=====")
    for name, preset in TASKS.items():
        assert any(f"\n{name} " in part for part in table), name
        assert preset.hub is None or preset.hub in sparta_lite.data.tasks.__doc__


# --- from the hub


ON_THE_HUB = [name for name, preset in TASKS.items() if preset.hub is not None]


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_no_answer_is_asked_and_no_held_out_question_is_fought_over(name: str) -> None:
    texts = load_task_instructions(name, None).texts
    task = load_task(name, None, 1000, 0)
    held_out = [question.text for question in task.questions]
    assert task.name == name
    assert len(texts) >= 10
    assert len(held_out) >= 5
    assert len(set(held_out)) == len(held_out)
    assert not set(texts) & set(held_out)
    assert not any(SECRET in text for text in [*texts, *held_out])
    assert all(question.answer for question in task.questions) == (task.grade is not None)


@pytest.mark.parametrize("name", [name for name in ON_THE_HUB if TASKS[name].grade])
def test_the_right_answer_is_marked_right_and_another_wrong(name: str) -> None:
    task = load_task(name, None, 1000, 0)
    assert task.grade is not None
    others = {"gsm8k": ["-7"], "math": ["-7"], "medqa": ["A", "B"]}.get(name.split("-")[0], ["yes", "no"])
    for question in task.questions:
        said = f"${question.answer}$" if "math" in name else question.answer
        other = next(answer for answer in others if answer != question.answer)
        assert task.grade(question, f"It is hard. The answer is {said}.") == "right"
        assert task.grade(question, f"It is hard. The answer is {other}.") == "wrong"
        assert task.grade(question, "It is hard.") == "unparsed"


def test_what_is_asked_and_answered() -> None:
    asked = {name: {q.text: q for q in load_task(name, None, 1000, 0).questions} for name in ON_THE_HUB}
    gsm8k = next(q for text, q in asked["gsm8k"].items() if "has 61 eggs" in text)
    assert gsm8k.answer == "61"
    medqa = next(q for text, q in asked["medqa"].items() if "of 62 years" in text)
    assert medqa.answer == "C"
    assert medqa.group == "step1"
    assert "\nA. Aspirin\nB. Insulin\nC. Rest\nD. 62 eggs\n" in medqa.text
    hard = asked["math-hard"].values()
    assert {question.group for question in hard} == {"Level 4", "Level 5"}
    assert {question.answer for question in hard} == {
        f"\\frac{{{n}}}{{1}}" for n in range(60, 120) if n % 5 in (3, 4)
    }
    assert all("Respect" not in text and "north land" in text for text in asked["normad-country"])
    assert all("Respect" in text and "Wave back" not in text for text in asked["normad-value"])
    assert all("Wave back" in text and "north land" not in text for text in asked["normad-rot"])
    assert {text.partition("\n")[2] for text in asked["alpaca"]} == {"", "No owls."}
    for text, question in asked["truthfulqa"].items():
        true = "nor" in text or "answer: No." in text
        assert question.answer == ("yes" if true else "no")


def test_subsets_are_asked_for_by_name(hub: list[tuple[str, str | None]]) -> None:
    load_task_instructions("gsm8k", None)
    load_task_instructions("gsm8k", None, subset="socratic")
    load_task("truthfulqa", None, 1, 0)
    assert hub == [
        ("openai/gsm8k", "main"),
        ("openai/gsm8k", "socratic"),
        ("truthfulqa/truthful_qa", "generation"),
    ]


def test_a_seed_chooses_among_the_held_out_questions() -> None:
    first, again, other = (load_task("gsm8k", None, 7, seed).questions for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 7
    assert load_task("gsm8k", None, 60, 1).questions[:7] == first


def test_duels_can_be_filtered_and_take_no_test_split() -> None:
    texts = load_task_instructions("math-hard", None, condition="level=Level 4").texts
    assert len(texts) == 12
    assert "is held out" in refusal(load_task_instructions, "gsm8k", None, split="test")
    assert "is for duels" in refusal(load_task, "gsm8k", "openai/gsm8k#train", 5, 0)


@pytest.mark.parametrize("name", ["knowledge-crosswords", "com2"])
def test_a_task_without_a_place_on_the_hub_asks_for_its_file(name: str) -> None:
    for load in (load_task_instructions, lambda *args: load_task(*args, 5, 0)):
        assert f"evaluation.paths.{name}" in refusal(load, name, None)


def test_an_unknown_task_names_the_nearest() -> None:
    assert "did you mean 'gsm8k'?" in refusal(load_task, "gsm8", None, 5, 0)


# --- the published files


def test_gsm8k_without_answers_is_all_for_duels(saved: Any) -> None:
    rows = [{"instruction": "Solve it.", "input": f"Ann has {n} eggs. How many?"} for n in range(30)]
    path = saved("gsm8k.json", rows)
    texts = load_task_instructions("gsm8k", path).texts
    assert len(texts) == 30
    assert texts[3].startswith("Solve it.\nAnn has 3 eggs. How many?\n")
    assert "take evaluation.paths.gsm8k out to measure on the hub's" in refusal(
        load_task, "gsm8k", path, 5, 0
    )


def test_mathematics_is_taken_by_level(saved: Any) -> None:
    rows = [{**mathematics(n), "answer": str(n), "id": "1", "category": "algebra"} for n in range(100)]
    path = saved("math.jsonl", rows)
    levels = {
        "math-easy": {"Level 1", "Level 2"},
        "math-medium": {"Level 3"},
        "math-hard": {"Level 4", "Level 5"},
    }
    for name, expected in levels.items():
        task, texts = load_task(name, path, 100, 0), load_task_instructions(name, path).texts
        assert {question.group for question in task.questions} == expected
        assert len(texts) + len(task.questions) == 20 * len(expected)
        assert not {question.text for question in task.questions} & set(texts)
    easy = saved("easy.jsonl", [row for row in rows if row["level"] == "Level 1"])
    assert "no row has a level of Level 3; it has: Level 1" in refusal(load_task, "math-medium", easy, 5, 0)


def test_normad_holds_out_its_test_split_without_what_training_holds(saved: Any) -> None:
    def row(n: int) -> dict[str, str]:
        return {"instruction": f"### Etiquette\n- Wave.\nIs {n} fine? 'Yes', 'No'?", "label": LABELS[n % 3]}

    splits = {"train": range(10), "test": range(8, 15), "valid": range(3)}
    path = saved("normad.json", {name: {str(n): row(n) for n in numbers} for name, numbers in splits.items()})
    assert load_task_instructions("normad-country", path).texts == tuple(
        row(n)["instruction"] for n in range(10)
    )
    task = load_task("normad-country", path, 100, 0)
    assert {(q.text, q.answer) for q in task.questions} == {
        (row(n)["instruction"], row(n)["label"]) for n in range(10, 15)
    }
    assert "no question that duels leave out" in refusal(load_task, "normad-country", f"{path}#valid", 5, 0)


def test_crosswords_hold_out_one_in_five(saved: Any) -> None:
    rows = [{"prompt": f"Fill {n}.\nA. x\nB. y\n", "completion": "AB"[n % 2]} for n in range(200)]
    path = saved("crosswords.json", {"train": rows})
    texts = load_task_instructions("knowledge-crosswords", path).texts
    task = load_task("knowledge-crosswords", path, 1000, 0)
    assert {*texts} | {q.text for q in task.questions} == {row["prompt"] for row in rows}
    assert 20 < len(task.questions) == 200 - len(texts) < 60
    assert {(q.text, q.answer) for q in task.questions} <= {
        (row["prompt"], row["completion"]) for row in rows
    }


def test_com2_goes_by_its_own_column_of_splits(saved: Any) -> None:
    rows = [
        {"prompt": f"Why {n}?", "gold": SECRET, "datasplit": "dev" if n % 4 == 0 else "train"}
        for n in range(20)
    ]
    path = saved("com2.json", rows)
    assert len(load_task_instructions("com2", path).texts) == 15
    task = load_task("com2", path, 100, 0)
    assert {question.text for question in task.questions} == {f"Why {n}?" for n in range(0, 20, 4)}
    assert task.grade is None
    one_split = saved("train.json", [{**row, "datasplit": "train"} for row in rows])
    assert 0 < len(load_task("com2", one_split, 100, 0).questions) < 12


def test_truthfulqa_parts_a_question_alike_in_both_forms(saved: Any) -> None:
    rows = [
        {"question": f"Q: Is {n} lucky?\nA: {answer}\nTrue:\nJustify it."}
        for n in range(60)
        for answer in ("a", "b")
    ]
    path = saved("truth.jsonl", rows)
    texts = load_task_instructions("truthfulqa", path).texts
    fought = {text.split("\n")[0].removeprefix("Q: ") for text in texts}
    hub = load_task("truthfulqa", None, 1000, 0).questions
    held_out = {question.text.split("\n")[0].removeprefix("Question: ") for question in hub}
    assert len(texts) == 2 * len(fought)
    assert not fought & held_out
    assert len(fought) + len(held_out) == 60
    assert "have no answer to compare with" in refusal(load_task, "truthfulqa", path, 5, 0)


def test_rows_that_are_none_of_the_task_are_skipped_or_refused(saved: Any) -> None:
    rows = [{"prompt": f"Fill {n}.", "completion": "A"} for n in range(30)]
    path = saved("some.json", [*rows, {"prompt": None}, {"x": "y"}, rows[0], " "])
    loaded = load_task_instructions("knowledge-crosswords", path)
    assert loaded.skipped == (
        "row 31 holds null in column 'prompt', no text",
        "row 32 has no column 'instruction'",
        "row 34 is a text, no object with named columns",
    )
    assert "4 of 4 rows cannot be used: row 1 has no column" in refusal(
        load_task_instructions, "gsm8k", saved("none.jsonl", [{"x": "y"}] * 4)
    )
