"""Every benchmark can be imported, and says what it does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HELPERS = {
    "beside_card",
    "card_base",
    "card_install",
    "card_runs",
    "card_soundness",
    "card_steps",
    "card_table",
    "card_tools",
    "card_work",
    "counting",
    "forking",
    "pair_figures",
    "peers",
    "published_way",
    "real_size",
    "real_tribe",
    "rounds",
    "side_by_side",
    "slips",
    "stand_in",
    "tiny_tribe",
}
PEERS = {"card_peers", "card_unsloth"}  # started by a benchmark, with a task in a file


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_help_is_the_docstring(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module(name)
    if name in HELPERS | PEERS:
        assert hasattr(module, "main") == (name in PEERS)
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in printed
    assert "--json" in printed or name == "ablations"
