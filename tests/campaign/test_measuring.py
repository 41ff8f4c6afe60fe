"""Held-out questions: how answers are counted, judged and kept, against closed forms and transformers."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.config import Config
from sparta_lite.campaign.events import Evaluated, Event, PhaseStarted, Scored
from sparta_lite.campaign.examining import Sheet
from sparta_lite.campaign.intervals import bootstrap, wilson
from sparta_lite.campaign.journals import open_metrics
from sparta_lite.campaign.measuring import evaluate
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.tasks import held_out
from sparta_lite.data.task import Mark, Question, Task
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_lines

QUESTIONS = tuple(
    Question(f"What is {n} and {n}?", str(2 * n), "even" if n % 2 == 0 else "odd") for n in range(6)
)


def settings(**changes: object) -> Config:
    return Config.model_validate(
        {
            "batch_tokens": 1000,
            "tribe": {"resident": 3},
            "training": {"micro_batch": 1, "adapters_at_once": 3, "checkpointing": False},
            "generation": {"max_new_tokens": 6, "max_prompt_tokens": 128, "places": 5},
            "judge": {"layout": "turns", "request": "Score it.", "minimum_mass": 0.0, "max_tokens": 300},
            "evaluation": {"max_new_tokens": 6, "items": 6},
            **changes,
        }
    )


# --- intervals


@pytest.mark.parametrize(("right", "total"), [(1, 3), (7, 10), (150, 300), (299, 300)])
def test_wilson_s_ends_are_the_shares_that_the_data_just_do_not_reject(right: int, total: int) -> None:
    """Each end p solves |share - p| = z sqrt(p (1 - p) / n), by which the interval is defined."""
    z = statistics.NormalDist().inv_cdf(0.975)
    for end in wilson(right, total):
        assert abs(right / total - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), abs=1e-12)


def test_wilson_s_interval_never_leaves_the_shares() -> None:
    z = statistics.NormalDist().inv_cdf(0.975)
    assert wilson(0, 20) == (0.0, pytest.approx(z * z / (20 + z * z)))
    assert wilson(20, 20) == (pytest.approx(20 / (20 + z * z)), 1.0)


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_scores() -> None:
    rng = random.Random(0)
    scores = [rng.uniform(1, 10) for _ in range(800)]
    half = statistics.NormalDist().inv_cdf(0.975) * statistics.stdev(scores) / math.sqrt(len(scores))
    low, high = bootstrap(scores)
    assert (low, high) == pytest.approx(
        (statistics.mean(scores) - half, statistics.mean(scores) + half), abs=half / 10
    )
    assert bootstrap(scores) == (low, high)
    assert bootstrap([4.0, 4.0]) == (4.0, 4.0)


# --- counting


def test_unparsed_answers_are_not_right_and_are_counted_apart() -> None:
    marks: tuple[Mark, ...] = ("right", "unparsed", "wrong", "right", "wrong", "unparsed")
    sheet = Sheet(QUESTIONS, marks, ())
    assert (sheet.value, sheet.unparsed, sheet.interval) == (2 / 6, 2, wilson(2, 6))
    assert sheet.by_group() == {"even": 1 / 3, "odd": 1 / 3}


def test_a_judgment_that_failed_is_in_no_mean() -> None:
    sheet = Sheet(QUESTIONS, (), (2.0, None, 4.0, None, 9.0, None))
    assert (sheet.value, sheet.unparsed) == (5.0, 3)
    assert sheet.by_group() == {"even": 5.0, "odd": None}
    assert Sheet(QUESTIONS[:1], (), (None,)).interval is None


# --- which tasks


def test_pocket_data_bring_their_own_questions() -> None:
    [task] = held_out(settings())
    assert (task.name, len(task.questions)) == ("pocket", 6)
    assert {question.group for question in task.questions} == {
        "capitals", "words", "french", "opposites", "past", "doubling",
    }  # fmt: skip
    assert task.grade is not None
    question = task.questions[0]
    assert task.grade(question, f" {question.answer}\n") == "right"
    assert task.grade(question, f"{question.answer} indeed") == "wrong"


def test_nothing_is_measured_without_items_or_a_task(tmp_path: Path) -> None:
    assert held_out(settings(evaluation={"items": 0})) == ()
    assert held_out(settings(data={"path": str(tmp_path / "mine.json"), "column": "text"})) == ()


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"tasks": ["pocket", "pocket"]}, "evaluation.tasks: pocket, pocket names a task twice"),
        ({"paths": {"gsm8k": "x.json"}}, "evaluation.paths: gsm8k is not among the tasks"),
        ({"tasks": ["gsm9k"]}, "no task is called 'gsm9k'"),
    ],
)
def test_wrong_names_are_refused(evaluation: dict[str, object], said: str) -> None:
    with pytest.raises(SpartaError, match=said):
        held_out(settings(evaluation=evaluation))


# --- in a campaign


@pytest.fixture(scope="module")
def tiny_base(base_path: Path) -> Base:
    return load_base(base_path, torch.device("cpu"))


MakeArena = Callable[[list[Event]], Arena]


def long(question: Question, text: str) -> Mark:
    """Some mark that depends on the answer: random models never answer rightly."""
    return "unparsed" if len(text) < 5 else "right" if len(text) % 2 else "wrong"


@pytest.fixture
def make_arena(tiny_base: Base, adapter_paths: dict[str, Path], tmp_path: Path) -> MakeArena:
    config = settings()
    bank = load_bank(tiny_base.decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])
    store = Store(tmp_path)

    def make(told: list[Event]) -> Arena:
        return Arena(
            config=config,
            store=store,
            listener=told.append,
            base=tiny_base,
            bank=bank,
            adapter_configs={},
            trainer="tribe",
            chat=Chat(tiny_base.tokenizer, None, "turns", "Score it."),
            instructions=(),
            tasks=(Task("marked", QUESTIONS, long), Task("judged", QUESTIONS[:3], None)),
            metrics=open_metrics(store),
        )

    return make


def test_every_task_has_a_row_and_an_event(make_arena: MakeArena) -> None:
    told: list[Event] = []
    evaluate(make_arena(told), 0)
    [row] = read_lines(make_arena([]).store.metrics)
    marked, judged = row["tasks"]
    assert [row[key] for key in ("accuracy", "base", "by_skill", "items")] == [
        marked[key] for key in ("accuracy", "base", "by_skill", "items")
    ]
    assert (marked["task"], marked["judged"], judged["task"], judged["judged"]) == (
        "marked",
        False,
        "judged",
        True,
    )
    assert set(marked["accuracy"]) == {"ada", "ben", "cyd"}
    assert all(1 <= value <= 10 for value in judged["accuracy"].values())
    assert [event for event in told if isinstance(event, Evaluated | Scored)] == [
        Evaluated(0, marked["accuracy"], marked["base"], "marked", marked["unparsed"]),
        Scored(0, judged["accuracy"], judged["base"], "judged", judged["unparsed"]),
    ]


def test_answers_are_the_greedy_ones_of_transformers(
    make_arena: MakeArena, base_path: Path, tiny_base: Base
) -> None:
    told: list[Event] = []
    evaluate(make_arena(told), 0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base_path), tiny_base.tokenizer
    marks = []
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        answer = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
        marks.append(long(question, tokenizer.decode(answer, skip_special_tokens=True)))
    [event] = [event for event in told if isinstance(event, Evaluated)]
    assert len(set(marks)) > 1
    assert event.base == marks.count("right") / len(marks)


def test_the_bare_base_judges_everyone(make_arena: MakeArena, base_path: Path) -> None:
    """A task's mean score is the mean expected score under transformers' own base model."""
    told: list[Event] = []
    arena = make_arena(told)
    evaluate(arena, 0)
    [event] = [event for event in told if isinstance(event, Scored)]

    from sparta_lite.campaign.examining import GREEDY
    from sparta_lite.engine.decode import Prompt, generate

    model, tokens = AutoModelForCausalLM.from_pretrained(base_path), arena.chat.score_tokens
    scores = []
    for question in QUESTIONS[:3]:
        asked = Prompt("ada", arena.question(question.text).ids)
        [response] = generate(arena.base, arena.bank, [asked], GREEDY, 6, 1)
        paper = arena.chat.judge(question.text, response.ids, 300)
        assert paper is not None
        ids = torch.tensor([[*paper.ids, *tokens.prefix, tokens.digits[0]]])
        first, second = model(ids).logits[0, -2:].detach().double().softmax(-1)
        chances = first[list(tokens.digits)]
        ten = chances[0] * second[tokens.ten[1]]
        chances = torch.cat([(chances[0] - ten)[None], chances[1:], ten[None]])
        scores.append(float((chances * torch.arange(1, 11)).sum() / chances.sum()))
    assert event.scores["ada"] == pytest.approx(statistics.mean(scores), abs=1e-4)


def test_a_resumed_evaluation_says_the_same_without_asking(make_arena: MakeArena) -> None:
    first: list[Event] = []
    again: list[Event] = []
    evaluate(make_arena(first), 0)
    evaluate(make_arena(again), 0)
    assert again == [event for event in first if isinstance(event, Evaluated | Scored)]
    assert len(read_lines(make_arena([]).store.metrics)) == 1


def test_the_bare_base_is_asked_once(make_arena: MakeArena) -> None:
    told: list[Event] = []
    arena = make_arena(told)
    evaluate(arena, 0)
    evaluate(arena, 1)
    assert [event.total for event in told if isinstance(event, PhaseStarted)] == [4 * 9, 3 * 9]
    first, second = arena.metrics.rows
    # Nobody has learned anything in between; who is read beside whom rounds a score in another way.
    for before, after in zip(first.tasks, second.tasks, strict=True):
        assert after.accuracy == pytest.approx(before.accuracy, abs=1e-6)
        assert after.base == before.base
    assert second.iteration == 1


def test_an_answer_that_no_judge_could_score_is_no_number(make_arena: MakeArena) -> None:
    told: list[Event] = []
    arena = make_arena(told)
    strict = arena.config.judge.model_copy(update={"minimum_mass": 1.0})
    object.__setattr__(arena, "config", arena.config.model_copy(update={"judge": strict}))
    evaluate(arena, 0)
    [event] = [event for event in told if isinstance(event, Scored)]
    assert event.scores == {"ada": None, "ben": None, "cyd": None}
    assert event.failed == {"ada": 3, "ben": 3, "cyd": 3}
    assert event.base is None
