"""On a card the tests marked ``gpu`` try compiled kernels or fail; without one Triton's are interpreted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins a test with a marker as if there were a card and Triton interpreted, or not."""
    conftest = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    (hooks,) = [each for each in plugins if getattr(each, "__file__", None) == conftest]

    def begin(marker: str, card: bool, interpreted: bool) -> None:
        triton = SimpleNamespace(knobs=SimpleNamespace(runtime=SimpleNamespace(interpret=interpreted)))
        monkeypatch.setitem(sys.modules, "triton", triton)  # type: ignore[arg-type]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
        hooks.pytest_runtest_setup(SimpleNamespace(get_closest_marker=lambda name: name == marker))

    return begin


def test_on_a_card_what_is_interpreted_is_no_test_of_it(setup: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="TRITON_INTERPRET is set"):
        setup("gpu", card=True, interpreted=True)
    setup("gpu", card=True, interpreted=False)
    setup("none", card=True, interpreted=True)


def test_what_reads_tensors_of_a_cpu_is_left_out_where_kernels_are_compiled(setup: Any) -> None:
    with pytest.raises(pytest.skip.Exception, match="TRITON_INTERPRET=1"):
        setup("interpreted", card=True, interpreted=False)
    setup("interpreted", card=False, interpreted=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_kernels_are_interpreted() -> None:
    triton = pytest.importorskip("triton")
    assert triton.knobs.runtime.interpret
