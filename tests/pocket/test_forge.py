from __future__ import annotations

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.errors import SpartaError
from sparta_lite.pocket import SKILLS
from sparta_lite.pocket.forge import Plan, forge

TINY = Plan(skills=3, misconceptions=1, expert=1, exam=10)


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("forge") / "pocket"
    said: list[str] = []
    forge(out, seed=3, plan=TINY, say=said.append)
    return out, said


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_forged_tribe_loads_in_transformers_and_peft(forged: tuple[Path, list[str]]) -> None:
    out, said = forged
    model = AutoModelForCausalLM.from_pretrained(out / "base")
    assert AutoTokenizer.from_pretrained(out / "base").eos_token_id == model.config.eos_token_id
    for skill in SKILLS:
        assert any(line.startswith(f"{skill}: own") for line in said)
    assert isinstance(PeftModel.from_pretrained(model, out / "adapters" / SKILLS[-1]), PeftModel)
    assert [path.name for path in out.parent.iterdir()] == ["pocket"]


def test_the_same_seed_gives_the_same_bytes(forged: tuple[Path, list[str]], tmp_path: Path) -> None:
    forge(tmp_path / "again", seed=3, plan=TINY)
    assert contents(tmp_path / "again") == contents(forged[0])


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(SpartaError, match="already"):
        forge(tmp_path, plan=TINY)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpartaError, match="file"):
        forge(tmp_path / "file" / "pocket", plan=TINY)
