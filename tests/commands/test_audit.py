"""``sparta-lite audit``: one record, whole on the disk, and tables for people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app

from ..run_files import forget_digests


def call(*args: object, **given: Any) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, args)], prog_name="sparta-lite", **given)


@pytest.fixture(scope="module")
def own_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(small_run, tmp_path_factory.mktemp("audited") / "run"))


@pytest.fixture(scope="module")
def audited(own_run: Path) -> Any:
    result = call(own_run, "--duels", 3, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_record_is_what_is_printed_and_holds_every_judge(own_run: Path, audited: Any) -> None:
    assert json.loads((own_run / "audit.json").read_text()) == audited
    assert list(audited["judges"]) == ["ada", "ben", "cyd"]
    for figures in (*audited["judges"].values(), audited["tribe"], *audited["injection"]["kinds"].values()):
        assert all(value is None or isinstance(value, float | int) for value in figures.values())
    assert audited["truth"]["known"]
    assert audited["layout"]["run"] == audited["injection"]["layout"] == "turns"
    assert audited["duels"] == 6
    assert len(audited["injection"]["kinds"]) == 10
    assert [row["iteration"] for row in audited["iterations"]] == [1]


def test_what_is_missing_has_its_reason(audited: Any) -> None:
    # Two of three fight, so a duel has one judge and no other to agree with.
    for name, figures in audited["judges"].items():
        assert figures["agreement"] is None
        assert audited["missing"][name]["agreement"].startswith("no duels in which both")
        lacking = {metric for metric, value in figures.items() if value is None}
        assert lacking.issuperset(audited["missing"][name])
        assert all(
            metric in audited["missing"][name] or metric[-4:] in ("_low", "high") for metric in lacking
        )


def test_people_get_tables_and_the_target(own_run: Path) -> None:
    result = call(own_run, "--duels", 3, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.stderr
    assert "Injected answers against their clean twins, 3 duels" in result.stdout
    assert "wins no more often than its clean twin plus 2 points:" in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert f"saved as {own_run / 'audit.json'}" in result.stderr


def test_without_a_model_there_is_what_the_files_say(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparta_lite.outcome.audit.auditing.load_resident", None)
    result = call(own_run, "--duels", 0, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["layout"], record["injection"]) == (None, None)
    assert "injection_net" not in record["judges"]["ada"]
    assert call(own_run, "--duels", 0).exit_code == 0


def test_a_template_that_refuses_the_other_layout_leaves_that_comparison_out(
    own_run: Path, base_path: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(base_path, tmp_path / "base"))
    fenced = "'=== question ===' in messages[0].content"
    template = base / "chat_template.jinja"
    template.write_text(
        f"{{% if {fenced} %}}{{{{ raise_exception('no fences') }}}}{{% endif %}}{template.read_text()}"
    )
    run = Path(shutil.copytree(own_run, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(base_path), str(base)))

    result = call(run, "--duels", 3, env={"COLUMNS": "200"})

    assert result.exit_code == 0, result.stderr
    said = "layouts are not compared: base: its chat template refuses the turns user (no fences)"
    assert said in result.stdout
    record = json.loads((run / "audit.json").read_text())
    assert record["layout"] is None
    assert "no fences" in record["layout_missing"]
    assert "layout_agreement" not in record["judges"]["ada"]
    # The judges read the injected answers all the same.
    assert len(record["injection"]["kinds"]) == 10
    assert record["injection"]["kinds"]["order"]["failed"] == 0


def test_a_run_that_has_not_judged_is_refused(own_run: Path, tmp_path: Path) -> None:
    young = forget_digests(Path(shutil.copytree(own_run, tmp_path / "young")))
    shutil.rmtree(young / "iteration-00")
    result = call(young, "--duels", 0)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no iteration has been judged yet" in result.stderr
    assert call(tmp_path).exit_code == 2
