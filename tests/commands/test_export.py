"""``sparta-lite export``: what stands in the target, what the card says, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gguf import GGUFReader
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app
from sparta_lite.files import read_json, read_lines, write_lines
from sparta_lite.outcome.card import model_card
from sparta_lite.outcome.finished import Finished, open_run

from ..run_files import forget_digests

IDS = torch.tensor([[72, 101, 108, 108, 111, 10, 33]])


@pytest.fixture
def measured(small_run: Path, tmp_path: Path) -> Path:
    """The run with figures that differ, as if ben had done best."""
    path = tmp_path / "measured"
    shutil.copytree(small_run, path)
    forget_digests(path)
    figures = {0: {"ada": 0.25, "ben": 0.5, "cyd": 0.125}, 1: {"ada": 0.5, "ben": 0.75, "cyd": 0.0}}
    rows = read_lines(path / "metrics.jsonl")
    for row in rows:
        if row["kind"] == "evaluation":
            row |= {"accuracy": figures[row["iteration"]], "base": 0.375}
            row["tasks"][0] |= {"accuracy": figures[row["iteration"]], "base": 0.375}
    write_lines(path / "metrics.jsonl", rows)
    return path


def changed(run: Path, **settings: object) -> Finished:
    """The run as if it had been made with other settings."""
    finished = open_run(run)
    return replace(finished, config=finished.config.model_copy(update=settings))


def export(*args: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, args)])


def card(path: Path) -> tuple[dict[str, Any], str]:
    _, head, body = (path / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_best_adapter_leaves_in_pefts_form_with_its_figures(
    measured: Path, base_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "best"
    result = export(measured, "--out", out)
    assert (result.exit_code, result.stdout) == (0, f"ben after iteration 1: {out}\n")
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert [path.name for path in out.parent.iterdir()] == ["best"]
    trained = measured / "iteration-00" / "adapters" / "ben"
    logits = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path), path)(IDS).logits
        for path in (out, trained)
    ]
    assert torch.equal(*logits)
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == str(base_path)

    metadata, text = card(out)
    assert metadata["library_name"] == "peft"
    assert "base_model" not in metadata  # a bare name would be some other model of the hub
    front = (out / "README.md").read_text().partition("\n---\n")[0]
    assert f"\n# base_model: the local directory {base_path.name}; put its id here" in front
    pairs = len((measured / "iteration-00" / "preferences.jsonl").read_text().splitlines())
    for line in (
        f"| base | {base_path.name}, unquantised |",
        "| tribe | ada, ben, cyd |",
        "| seed | 4 |",
        "| duels | 6 |",
        f"| preference pairs | {pairs} |",
        "| constants | learning rate 0.01, beta 0.1, sft_weight 0; what weighs the judges: reliability |",
        "| task | n | ben before | ben now | interval | best init | bare base |",
        # Wilson's: the p with (3/4 - p)^2 = 1.96^2 p (1 - p) / 4.
        "| pocket | 4 | 0.500 | 0.750 | 0.301 to 0.954 | 0.500 (ben) | 0.375 |",
        "ben was picked, or would be, as the best of 3 adapters on these very questions",
    ):
        assert line in text
    assert f"torch {torch.__version__}" in text


@pytest.mark.parametrize(
    ("form", "library", "relation"),
    [("peft", "peft", "adapter"), ("merged", "transformers", "finetune"), ("gguf-lora", None, "adapter")],
)
def test_a_base_of_the_hub_is_named_in_the_form_that_the_hub_reads(
    measured: Path, form: str, library: str | None, relation: str
) -> None:
    base = "Qwen/Qwen2.5-7B-Instruct"
    data = ModelCard(model_card(changed(measured, base=base), "ben", form)).data
    assert (data.base_model, data.base_model_relation) == (base, relation)
    assert (data.library_name, data.pipeline_tag) == (library, "text-generation")
    assert {"sparta-lite", "dpo"} <= set(data.tags)
    assert ("lora" in data.tags) == (form != "merged")


def test_a_card_says_what_the_run_was(measured: Path, tmp_path: Path) -> None:
    assert "after 1 of 1 iteration of SPARTA alignment" in model_card(changed(measured), "ben", "peft")
    alone = shutil.copytree(measured, tmp_path / "alone")
    rows = read_lines(alone / "metrics.jsonl")
    write_lines(
        alone / "metrics.jsonl",
        [row | {"learners": ["ben"]} if row["kind"] == "budget" else row for row in rows],
    )
    text = model_card(changed(alone, base="pocket", algorithm="sppo", iterations=8), "ada", "peft")
    assert "# base_model: the pocket base, which comes with sparta-lite and is not on the hub" in text
    assert "after 1 of 8 iterations of the baseline sppo, in which ben learns alone" in text
    data = ModelCard(text).data
    assert data.base_model is None
    assert data.tags == ["sparta-lite", "sppo", "lora"]
    assert "; all judges weigh the same |" in text


def test_a_judged_task_has_no_interval_by_shares(measured: Path) -> None:
    rows = read_lines(measured / "metrics.jsonl")
    for row in rows:
        if row["kind"] == "evaluation":
            row["accuracy"] = {"ada": 6.5, "ben": None, "cyd": 2.0}
            row["tasks"][0] |= {"judged": True, "accuracy": row["accuracy"]}
    write_lines(measured / "metrics.jsonl", rows)
    text = model_card(open_run(measured), "ada", "peft")
    assert "| pocket | 4 | 6.500 | 6.500 | – | 6.500 (ada) | 0.375 |" in text
    assert "as the best of 2 adapters" in text


def test_a_card_names_the_hostile_adapters(measured: Path) -> None:
    assert "| tribe | ada, ben, cyd |" in model_card(changed(measured), "ada", "peft")
    tribe = changed(measured).config.tribe.model_copy(update={"hostile": 2})
    text = model_card(changed(measured, tribe=tribe), "ada", "peft")
    assert "| tribe | ada, ben (hostile), cyd (hostile) |" in text
    assert "| 0.250 | 0.500 | 0.150 to 0.850 | 0.250 (ada) | 0.375 |" in text
    assert "the best of" not in text  # the only one that is not hostile


def test_an_earlier_iteration_says_what_was_measured_then(measured: Path, tmp_path: Path) -> None:
    assert export(measured, "--adapter", "cyd", "--iteration", 0, "--out", tmp_path / "cyd").exit_code == 0
    _, text = card(tmp_path / "cyd")
    assert "| duels | 0 |" in text
    assert "| pocket | 4 | 0.125 | 0.125 | 0.013 to 0.604 | 0.500 (ben) | 0.375 |" in text
    assert "the best of" not in text


def test_a_run_without_measurements_has_a_card_without_figures_and_no_best(
    measured: Path, tmp_path: Path
) -> None:
    rows = read_lines(measured / "metrics.jsonl")
    write_lines(measured / "metrics.jsonl", [row for row in rows if row["kind"] != "evaluation"])
    result = export(measured, "--out", tmp_path / "best")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {measured}: nothing was measured at iteration 1, so none is best; name an adapter\n",
    )
    assert export(measured, "--adapter", "ada", "--out", tmp_path / "ada").exit_code == 0
    _, text = card(tmp_path / "ada")
    assert "Nothing was measured after iteration 1." in text
    assert "accuracy" not in text


def test_a_merged_model_needs_nothing_else(measured: Path, base_path: Path, tmp_path: Path) -> None:
    assert export(measured, "--to", "merged", "--out", tmp_path / "whole").exit_code == 0
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")(IDS).logits
        trained = measured / "iteration-00" / "adapters" / "ben"
        expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path), trained)(IDS)
    torch.testing.assert_close(merged, expected.logits, rtol=0, atol=1e-4)
    assert card(tmp_path / "whole")[0]["library_name"] == "transformers"


def test_a_gguf_lora_is_one_file_and_a_card(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export(measured, "--to", "gguf-lora", "--adapter", "cyd")
    out = Path("exports/measured-cyd-gguf-lora")
    assert result.stdout == f"cyd after iteration 1: {out}\n"
    assert {path.name for path in out.iterdir()} == {"README.md", "cyd.gguf"}
    reader = GGUFReader(out / "cyd.gguf")
    assert reader.fields["general.name"].contents() == "cyd"
    assert sorted(tensor.name for tensor in reader.tensors) == [
        f"blk.1.ffn_{side}.weight.lora_{part}" for side in ("down", "up") for part in "ab"
    ]


def test_the_hub_gets_the_same_files_privately(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], str, bool]] = []

    def upload(folder: Path, repository: str, private: bool) -> str:
        seen.append(({path.name for path in folder.iterdir()}, repository, private))
        return f"https://hub/{repository}"

    monkeypatch.setattr("sparta_lite.outcome.exporting.upload", upload)
    assert export(measured, "--to", "hub", "--repo", "me/ben").stdout == (
        "ben after iteration 1: https://hub/me/ben\n"
    )
    assert export(measured, "--to", "hub", "--repo", "me/open", "--public").exit_code == 0
    files = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert seen == [(files, "me/ben", True), (files, "me/open", False)]


def test_a_hub_that_refuses_is_one_line(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(*_: object, **__: object) -> str:
        raise RuntimeError("409 Conflict\nmany lines more")

    monkeypatch.setattr("sparta_lite.outcome.exporting.upload", upload)
    result = export(measured, "--to", "hub", "--repo", "me/ben")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: me/ben: the hub does not take it (409 Conflict); check")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--adapter", "dan"], "has no adapter 'dan'; its tribe is ada, ben, cyd"),
        (["--iteration", "2"], "iteration 2 is not complete; give one from 0 to 1"),
        (["--to", "hub"], "--repo OWNER/NAME and --to hub belong together"),
        (["--repo", "me/ben"], "--repo OWNER/NAME and --to hub belong together"),
        (["--base", "x"], "--base belongs to --to merged"),
        (["--to", "merged", "--base", "/nowhere"], "/nowhere"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused_and_leave_nothing(
    measured: Path, tmp_path: Path, args: list[str], reason: str
) -> None:
    out = [] if "hub" in args else ["--out", tmp_path / "new" / "out"]
    result = export(measured, *args, *out)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("new/*"))


def test_what_stands_there_is_not_replaced(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = export(measured, "--out", tmp_path / "mine")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {tmp_path / 'mine'}: exists already; give --out a directory that does not\n",
    )
