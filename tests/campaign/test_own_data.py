"""A user's own questions go the whole road on the pocket tribe, however bad its answers to them are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.data.instructions import load_instructions
from sparta_lite.files import read_lines

WORD_PROBLEM = (
    "A baker sells {n} loaves a day at 3 dollars each. On Sundays she sells twice as many, half of them at a "
    "discount of 20 percent. How many dollars does she take in a week? Think about every day on its own."
)
GEOMETRY = (
    "The points $(9, -{n})$ and $(-3, -1)$ are the endpoints of a diameter of a circle, drawn as [asy]\n"
    'draw((0,0)--(17,0), linetype("8 8"));\nlabel("$A$", (11.25, 14.5), N);\n[/asy] What is the sum of the '
    "coordinates of the center of the circle? Express it as $\\frac{{a}}{{b}}$ in lowest terms."
)


def write_gsm8k(path: Path) -> list[str]:
    rows = [{"instruction": "Solve step by step.", "input": WORD_PROBLEM.format(n=n)} for n in range(4)]
    path.write_text(json.dumps(rows))
    return ["data.template={instruction}\\n{input}"]


def write_math(path: Path) -> list[str]:
    rows = [
        {"problem": GEOMETRY.format(n=n), "level": "Level 3", "solution": "...", "answer": str(n)}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data.column=problem"]


def write_preferences(path: Path) -> list[str]:
    """As a run leaves them."""
    rows = [
        {
            "prompt": [{"role": "user", "content": WORD_PROBLEM.format(n=n)}],
            "chosen": [{"role": "assistant", "content": "2024-01-05"}],
            "rejected": [{"role": "assistant", "content": "2024-01-06"}],
            "duel": n,
        }
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return []


@pytest.mark.parametrize(
    ("name", "write"),
    [("gsm8k.json", write_gsm8k), ("math.jsonl", write_math), ("preferences.jsonl", write_preferences)],
)
def test_real_questions_run_on_the_pocket_tribe(tmp_path: Path, name: str, write: object) -> None:
    assert callable(write)
    sets = write(tmp_path / name)
    small = [
        "iterations=1",
        "duels=4",
        "generation.max_new_tokens=8",
        "pairs.minimum_margin=0",
        "tribe.size=4",
    ]
    out = tmp_path / "run"
    run(load_config(None, [f"data.path={tmp_path / name}", *sets, *small]), out, False, lambda event: None)
    duels = read_lines(Store(out).duels(0))
    assert len({duel["text"] for duel in duels}) == 4
    assert all(response["ids"] for duel in duels for response in duel["responses"])
    judgments = read_lines(Store(out).judgments(0))
    assert len(judgments) == 4 * 2
    assert all(cut == 0 for judgment in judgments for cut in judgment["cut"])
    assert not any(row["kind"] == "evaluation" for row in read_lines(Store(out).metrics))
    assert Store(out).adapters(0).is_dir()


def test_the_example_with_own_questions_is_a_sound_configuration() -> None:
    example = Path(__file__).parents[2] / "examples" / "own_questions.yaml"
    config = load_config(example)
    texts = load_instructions(config.data.path, config.data.column, config.data.template).texts
    assert texts[0] == "A train leaves at 9 and arrives at 11.\nHow many hours does it travel?"
