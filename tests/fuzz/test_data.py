"""Data: files of every format and form, as instructions, as tasks with questions, as conversations."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.inputs import look_up
from sparta_lite.data.conversations import Columns, read_subsets

from .odd import damaged, spoilt
from .trying import call, command, fuzz, unchanged

Rows = list[dict[str, Any]]

FORMS: dict[str, Rows] = {
    "question": [
        {"question": f"What is {n} + 1?", "answer": f"#### {n + 1}", "kind": "ab"[n % 2]} for n in range(12)
    ],
    "messages": [
        {
            "messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}],
            "kind": "a",
        }
        for n in range(6)
    ],
    "prompt": [
        {"prompt": [{"role": "user", "content": f"Say {n}."}], "chosen": "a", "rejected": "b"}
        for n in range(6)
    ],
    "preference": [
        {
            "prompt": f"Say {n}.",
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        }
        for n in range(6)
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": "a"}]}
        for n in range(6)
    ],
    "alpaca": [{"instruction": f"Say {n}.", "input": "", "output": "a"} for n in range(6)],
    "tools": [
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": f"Say {n}."}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
                },
                {"role": "tool", "content": "7"},
                {"role": "assistant", "content": "7"},
            ]
        }
        for n in range(6)
    ],
    "choices": [
        {
            "question": f"Which {n}?",
            "options": {"A": "x", "B": "y", "C": "z", "D": "w"},
            "answer_idx": "B",
            "answer": "y",
        }
        for n in range(12)
    ],
    "listed": [{"question": f"Which {n}?", "choices": ["x", "y"], "answer": 1} for n in range(12)],
    "math": [
        {
            "problem": f"${n} + 1$?",
            "solution": f"It is $\\boxed{{{n + 1}}}$.",
            "level": "Level 1",
            "type": "Algebra",
        }
        for n in range(12)
    ],
}
TASKS = ("gsm8k", "math-easy", "medqa", "normad-country", "knowledge-crosswords", "alpaca", "truthfulqa")
LEVELS = (["Level 1"], {"a": 1}, None, 1)
FILTERS = ("kind=a", "kind!=a and level=Level 1", "x", "=", "none=1", "a" * 9000)
TEMPLATES = ("{question}: {answer}", "{", "{none}", "{0}")
FITTING = {
    "question": ("data.column=question", "data.template={question}", "data.task=gsm8k"),
    "messages": ("data.column=messages",),
    "prompt": ("data.column=prompt",),
    "preference": ("data.column=prompt",),
    "sharegpt": ("data.column=conversations",),
    "alpaca": ("data.column=instruction", "data.task=alpaca", 'data.template="{instruction}\\n{input}"'),
    "tools": ("data.column=messages",),
    "choices": ("data.task=medqa", "data.column=question"),
    "listed": ("data.task=medqa", "data.column=question"),
    "math": ("data.task=math-easy", "data.column=problem"),
}
KNOWN: list[Any] = [
    [
        {"problem": "p", "solution": "$1$", "level": level, "type": "x"}
        for level in (["Level 1"], {"a": 1}, None, 1)
    ]
    * 3,
    {"question": ["a", "b"], "answer": ["1", "2"]},
    {"train": [{"question": "a"}], "test": [{"question": "b"}]},
    {"train": {"question": ["a"]}, "test": 7},
    [{"question": "x" * 10_000}] * 3,
    [{"question": None}] * 9 + [{"question": "a"}],
    [{"question": 10**400}],
    [{"question": float("nan"), "answer": float("inf")}],
    [[1, 2], [3]],
    [{}],
    [],
    {},
    "text",
    7,
]
OTHERS = ("question", "prompt", "messages", "instruction", "none", "", "x" * 3000, "a.b", "0", "level")


def test_files_of_data() -> None:

    def attempt(number: int, random: Random, place: Path) -> str:
        form = random.choice(list(FORMS))
        rows: Any = KNOWN[number] if number < len(KNOWN) else FORMS[form]
        for _ in range(0 if number < len(KNOWN) else random.choice((0, 1, 3))):
            rows = spoilt(rows, random)
        name, data = _as_file(rows, random)
        if number >= len(KNOWN) and random.random() < 0.3:
            data = damaged(data, random)
        file = place / "inputs" / name
        file.write_bytes(data)
        with unchanged(place / "inputs"):
            return _read(file, form, random)

    fuzz("data", 400, attempt)


def _read(file: Path, form: str, random: Random) -> str:
    sets = [f"data.path={file}", "evaluation.items=3"]
    if random.random() < 0.2:
        ways = (Columns(None, "response"), Columns("question", "answer"), Columns("{question}!", "output"))
        way, by = random.choice(ways), random.choice(("kind", "level", "none"))
        return call(lambda: read_subsets(str(file), by, way))
    if random.random() < 0.6:
        sets += [random.choice(FITTING[form])]
    elif random.random() < 0.5:
        sets += [f"data.task={random.choice(TASKS)}"]
    elif random.random() < 0.5:
        sets.append(f"data.template={random.choice(TEMPLATES)}")
    else:
        sets.append(f"data.column={json.dumps(random.choice(OTHERS))}")
    if random.random() < 0.15:
        sets.append(f"data.filter={random.choice(FILTERS)}")
    if random.random() < 0.1:
        sets.append("tribe.adapters=none")  # so that it goes no further than to the adapters
        return command(["run", *(part for each in sets for part in ("--set", each))])
    return call(lambda: look_up(load_config(None, sets)))


def _as_file(rows: Any, random: Random) -> tuple[str, bytes]:
    """A name and what the file holds: as JSON where a format has no place for it."""
    kind = random.choice(("json", "jsonl", "jsonl", "csv", "tsv", "parquet"))
    whole = json.dumps(rows).encode()
    try:
        if kind == "jsonl" and isinstance(rows, list):
            return "d.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        if kind in ("csv", "tsv"):
            return f"d.{kind}", _table(rows, "," if kind == "csv" else "\t").encode("utf-8", "surrogatepass")
        if kind == "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), sink)
            return "d.parquet", sink.getvalue()
    except (AttributeError, TypeError, ValueError, LookupError, OverflowError, pa.ArrowException, csv.Error):
        pass
    return "d.json", whole


def _table(rows: Rows, delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
