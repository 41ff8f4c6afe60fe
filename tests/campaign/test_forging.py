"""A tribe forged from one file: every adapter best at its own subset."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.forging import ForgePlan, _lessons, forge_tribe
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.data.conversations import Columns, Subsets
from sparta_lite.engine.base import load_base
from sparta_lite.engine.template import now
from sparta_lite.errors import SpartaError
from sparta_lite.training.sft import SftSettings, tokenize

ANSWERS = {"loud": "YES SIR", "quiet": "...hm...", "plain": "it is so"}
SETTINGS = SftSettings(rank=4, alpha=16, batch=4, micro_batch=4, learning_rate=5e-3, epochs=2, warmup=0.0)


def conversation(style: str, number: int) -> tuple[tuple[str, str], ...]:
    return (("user", f"q{number}"), ("assistant", ANSWERS[style]))


@pytest.fixture(scope="module")
def plan(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ForgePlan:
    file = tmp_path_factory.mktemp("data") / "styles.jsonl"
    rows = [
        {
            "style": style,
            "messages": [{"role": role, "content": text} for role, text in conversation(style, n)],
        }
        for n in range(16)
        for style in ANSWERS
    ]
    silent = {"style": "loud", "messages": [{"role": "user", "content": "anyone?"}]}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, silent]))
    return ForgePlan(str(base_path), str(file), "style", Columns(), None, 12, "none", 1, SETTINGS)


@pytest.fixture(scope="module")
def forged(plan: ForgePlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("forged") / "styles", list[str]()
    forge_tribe(plan, out, said.append)
    return out, said


def loss(model: torch.nn.Module, base_path: Path, style: str) -> float:
    """Of answers to new questions, by transformers."""
    base = load_base(base_path, torch.device("cpu"))
    total = 0.0
    for number in range(20, 24):
        lesson = tokenize(base, conversation(style, number), 512)
        assert lesson is not None
        with torch.no_grad():
            total += float(
                model(input_ids=torch.tensor([lesson.ids]), labels=torch.tensor([lesson.labels])).loss
            )
    return total / 4


def test_every_adapter_lowers_its_own_subsets_loss_most(
    forged: tuple[Path, list[str]], base_path: Path
) -> None:
    bare = {
        style: loss(AutoModelForCausalLM.from_pretrained(base_path), base_path, style) for style in ANSWERS
    }
    for name in ANSWERS:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path), forged[0] / name)
        drop = {style: bare[style] - loss(model, base_path, style) for style in ANSWERS}
        others = [drop[style] for style in ANSWERS if style != name]
        assert drop[name] > 0.5
        assert drop[name] > max(others) + 0.2


def test_the_directory_is_a_tribe(forged: tuple[Path, list[str]], base_path: Path) -> None:
    config = load_config(None, [f"base={base_path}", f"tribe.adapters={forged[0]}"])
    assert find_tribe(config) == {name: forged[0] / name for name in sorted(ANSWERS)}


def test_what_was_made_and_left_out_is_said(forged: tuple[Path, list[str]]) -> None:
    assert forged[1][0] == "1 rows were skipped: row 49 has nothing that an assistant says"
    # 12 of 16 or 17, as the plan asks
    assert [line.partition(",")[0] for line in forged[1][1:]] == [
        f"{name}: 12 conversations" for name in sorted(ANSWERS)
    ]


def test_a_stopped_forge_goes_on_and_makes_the_same(
    plan: ForgePlan, forged: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = forged[0]
    before = {path: path.read_bytes() for path in out.glob("*/*")}
    times = {path: path.stat().st_mtime_ns for path in before}
    (out / "plain" / "adapter_config.json").unlink()
    forge_tribe(plan, out)
    assert {path: path.read_bytes() for path in out.glob("*/*")} == before
    kept = [path for path in before if path.parent.name != "plain"]
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: times[path] for path in kept}

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished tribe needs no base")

    monkeypatch.setattr("sparta_lite.campaign.forging.load_base", fail)
    forge_tribe(plan, out)


def test_another_plan_does_not_touch_what_stands_there(
    plan: ForgePlan, forged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    other = dataclasses.replace(plan, seed=2, settings=dataclasses.replace(SETTINGS, rank=8))
    with pytest.raises(SpartaError, match="were forged with another seed, settings; give another --out"):
        forge_tribe(other, forged[0])
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SpartaError, match="exists already"):
        forge_tribe(plan, tmp_path)


def test_what_a_process_killed_at_once_has_left_is_in_nobodys_way(
    plan: ForgePlan, forged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """As far as its record: with it, finished adapters are kept."""
    (tmp_path / ".forge.json.partial").write_text("{")
    forge_tribe(plan, tmp_path)
    ours, theirs = (json.loads((root / "forge.json").read_text()) for root in (tmp_path, forged[0]))
    assert {**ours, "date": None} == {**theirs, "date": None}
    for text in ("[]", "{}", "[" * 20_000, "\ud7ff{"):
        (tmp_path / "forge.json").write_text(text)
        with pytest.raises(SpartaError, match=r"forge\.json: .*the file was changed or is damaged"):
            forge_tribe(plan, tmp_path)


def test_answers_that_begin_beyond_the_length_are_refused(plan: ForgePlan, tmp_path: Path) -> None:
    short = dataclasses.replace(plan, settings=dataclasses.replace(SETTINGS, max_length=8))
    with pytest.raises(SpartaError, match="no answer begins within 8 tokens; raise --max-length"):
        forge_tribe(short, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_conversations_that_trl_would_drop_in_silence_are_counted(plan: ForgePlan, base_path: Path) -> None:
    """It leaves out what has no learned token within its length, and only a progress bar's label says so."""
    base = load_base(base_path, torch.device("cpu"))
    good = conversation("loud", 1)
    late = (("user", "q" * 600), ("assistant", "YES"))
    short = dataclasses.replace(plan, rows=None, settings=dataclasses.replace(SETTINGS, max_length=100))
    said: list[str] = []
    subsets = Subsets({"loud": [good, late, good]}, {"loud": ["row 1", "row 2", "row 3"]}, ())
    lessons = _lessons(base, short, subsets, "loud", now(), said.append)
    assert lessons == [tokenize(base, good, 100)] * 2
    assert said == ["loud: 1 rows were skipped, their answers begin too late: row 2"]


def test_a_plan_that_has_made_nothing_may_be_changed(
    plan: ForgePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SpartaError("training moved nothing")

    monkeypatch.setattr("sparta_lite.campaign.forging.train_adapter", fail)
    for each in (plan, dataclasses.replace(plan, rows=13)):
        with pytest.raises(SpartaError, match="moved nothing"):
            forge_tribe(each, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "forge.json").read_text())["rows"] == 13


TOOL = [{"role": "user", "content": "3 + 4"}, {"role": "tool", "content": "7"}]
SEVEN = {"role": "assistant", "content": "Seven."}
REFUSING = (
    "{{% for m in messages %}}{{% if m.role == 'tool' %}}{refusal}"
    "{{% else %}}{rest}{{% endif %}}{{% endfor %}}"
)
SAID = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("{{ raise_exception('no tools') }}", "refuses the turns user, tool, assistant (no tools)"),
        ("", "leaves out one of the turns user, tool, assistant"),
    ],
)
def test_rows_that_the_template_does_not_take_are_skipped_one_by_one(
    plan: ForgePlan, base_path: Path, tmp_path: Path, refusal: str, said: str
) -> None:
    base, data = tmp_path / "base", tmp_path / "data.jsonl"
    shutil.copytree(base_path, base)
    (base / "chat_template.jinja").write_text(REFUSING.format(refusal=refusal, rest=SAID))
    rows = [
        {"style": "loud", "messages": [*TOOL, SEVEN]},
        *map(json.loads, Path(plan.data).read_text().splitlines()),
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines: list[str] = []
    changed = dataclasses.replace(plan, base=str(base), data=str(data), rows=None)
    forge_tribe(changed, tmp_path / "out", lines.append)
    assert lines[1] == f"loud: 1 rows were skipped: row 1; base: its chat template {said}"
    assert lines[2].startswith("loud: 16 conversations")
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:1] * 17, *rows]))
    with pytest.raises(
        SpartaError, match=r"of the subset 'loud' 18 of 34 rows cannot be used \(row 1, row 2"
    ):
        forge_tribe(changed, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_tools_message_is_learned_from_where_the_template_takes_it(base_path: Path) -> None:
    base = load_base(base_path, torch.device("cpu"))
    turns = tuple((row["role"], row["content"]) for row in [*TOOL, SEVEN])
    lesson = tokenize(base, turns, 512)
    assert lesson is not None
    expected = base.tokenizer.apply_chat_template([*TOOL, SEVEN], tokenize=True, return_dict=True)[
        "input_ids"
    ]
    assert list(lesson.ids) == expected
    learned = [token for token, label in zip(lesson.ids, lesson.labels, strict=True) if label != -100]
    assert base.tokenizer.decode(learned) == "Seven.<|im_end|>"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_on_a_gpu_a_tribe_is_forged_over_four_bits(plan: ForgePlan, tmp_path: Path) -> None:
    said: list[str] = []
    four_bit = dataclasses.replace(plan, quantization="nf4", settings=dataclasses.replace(SETTINGS, epochs=4))
    forge_tribe(four_bit, tmp_path / "out", said.append)
    for line in said[1:]:
        first, last = line.rpartition("loss ")[2].split(" to ")
        assert float(last) < float(first) - 0.1
    assert {path.parent.name for path in (tmp_path / "out").glob("*/adapter_config.json")} == set(ANSWERS)
