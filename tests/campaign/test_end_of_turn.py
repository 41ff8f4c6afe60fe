"""A base that names another end than its chat template writes, as bases with a ChatML template do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Warned
from sparta_lite.campaign.forging import ForgePlan, forge_tribe
from sparta_lite.campaign.loop import run
from sparta_lite.data.conversations import Columns
from sparta_lite.engine.merging import merge_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_lines
from sparta_lite.pocket import adapter_paths, base_path
from sparta_lite.training.sft import SftSettings

SAME = ("duels.jsonl", "judgments.jsonl", "reputation.json", "preferences.jsonl")


def changed(root: Path, file: str, **values: object) -> None:
    path = root / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket base with the end of text for its end."""
    root = tmp_path_factory.mktemp("bases") / "base"
    shutil.copytree(base_path(), root)
    for file in ("config.json", "generation_config.json"):
        changed(root, file, eos_token_id=0)
    changed(root, "tokenizer_config.json", eos_token="<|endoftext|>")
    return root


def small(base: Path) -> list[str]:
    names = ("capitals", "words", "french")
    adapters = ",".join(f"{name}: {adapter_paths()[name]}" for name in names)
    return [
        f"base={base}",
        f"tribe.adapters={{{adapters}}}",
        "quantization=none",
        "dtype=float32",
        "iterations=1",
        "duels=12",
        "threads=1",
        "evaluation.items=20",
        "evaluation.max_new_tokens=24",
        "generation.max_new_tokens=24",
        "judge.layout=turns",
        "judge.forced=true",
        "training.learning_rate=1e-3",
    ]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.name in SAME or path.suffix == ".safetensors"]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "metrics.jsonl"]}


def test_it_behaves_as_if_it_named_the_templates_own(base: Path, tmp_path: Path) -> None:
    told: dict[str, list[Event]] = {}
    for name, place in (("named", base_path()), ("other", base)):
        told[name] = []
        run(load_config(None, small(place)), tmp_path / name, False, told[name].append)
    assert contents(tmp_path / "other") == contents(tmp_path / "named")
    answers = [
        response
        for row in read_lines(tmp_path / "other" / "iteration-00" / "duels.jsonl")
        for response in row["responses"]
    ]
    assert {response["stop"] for response in answers} == {"end-of-turn"}
    warnings = {
        name: [each.message for each in events if isinstance(each, Warned)] for name, events in told.items()
    }
    assert warnings["named"] == []
    assert warnings["other"] == [
        "base: its chat template ends an answer with <|im_end|>, the model names <|endoftext|> as its end "
        "(eos_token_id); both end an answer"
    ]


def test_adapters_forged_on_it_learn_the_templates_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"q{n}", "response": f"a{n}", "by": "abc"[n % 3]} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SftSettings(rank=2, alpha=2.0, batch=8, learning_rate=1e-3)
    columns = Columns("prompt")
    plan = ForgePlan(str(base), str(tmp_path / "rows.jsonl"), "by", columns, None, None, "none", 0, settings)
    said: list[str] = []
    forge_tribe(plan, tmp_path / "forged", said.append)
    assert said[0].startswith("base: its chat template ends an answer with <|im_end|>, the model names")
    # Eight rows are one step of eight, and it is learned from.
    assert [line.partition(", loss")[0] for line in said[1:]] == [
        f"{name}: 8 conversations, 1 step" for name in "abc"
    ]


def test_a_merged_model_names_it(base: Path, tmp_path: Path) -> None:
    merge_adapter(str(base), adapter_paths()["capitals"], tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    named = GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
    assert tokenizer.convert_ids_to_tokens(named) == ["<|im_end|>", "<|endoftext|>"]


def with_template(base: Path, root: Path, template: str) -> Path:
    shutil.copytree(base, root)
    (root / "chat_template.jinja").write_text(template)
    return root


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}",
            r"takes more than 0\.02 s",
        ),
        ("{{ 'x' * 300 }}{{ messages[0].content }}", "writes more than .* characters"),
    ],
    ids=["time", "size"],
)
def test_a_template_that_comes_to_no_end_is_refused_and_leaves_nothing_behind(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, reason: str
) -> None:
    from sparta_lite.engine.rendering import Renderer

    honest = Renderer.render
    monkeypatch.setattr(
        Renderer, "render", lambda self, *asked: honest(self, *asked, seconds=0.02, characters=200)
    )
    config = load_config(None, small(with_template(base, tmp_path / "base", template)))
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in (tmp_path / "empty", tmp_path / "new" / "run"):
        with pytest.raises(SpartaError, match=f"base: its chat template {reason}"):
            run(config, out, False, lambda event: None)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("gigabytes are loaded before the template is looked at")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    return load


def test_the_template_is_looked_at_before_the_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_loaded: object
) -> None:
    from sparta_lite.engine.rendering import Renderer, RenderingLimit

    def render(*_: object, **__: object) -> str:
        raise RenderingLimit("takes more than 5 s of computing")

    monkeypatch.setattr(Renderer, "render", render)
    with pytest.raises(SpartaError, match="takes more than 5 s"):
        run(load_config(None, small(base)), tmp_path / "run", False, lambda event: None)
    assert not (tmp_path / "run").exists()
