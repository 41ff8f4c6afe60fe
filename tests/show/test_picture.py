from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparta_lite.campaign.events import Event, Stamped
from sparta_lite.errors import SpartaError

Recording = Callable[..., list[Event]]
SCRIPT = Path(__file__).parents[2] / "docs" / "picture.py"


@pytest.fixture(scope="module")
def picture() -> Any:
    spec = importlib.util.spec_from_file_location("picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(events: list[Event]) -> list[Stamped]:
    return [Stamped(event, 1e9 + 0.5 * index) for index, event in enumerate(events)]


def test_the_picture_shows_judging_late_in_the_run(picture: Any, recording: Recording) -> None:
    svg = picture.draw(told(recording(iterations=4)))

    ElementTree.fromstring(svg)
    text = svg.replace("&#160;", " ")
    assert "iteration 4/4" in text
    assert "24 of 40 judgments" in text
    assert "held-out accuracy" in text
    assert "@font-face" not in svg


def test_a_run_that_never_got_there_is_refused(picture: Any, recording: Recording) -> None:
    with pytest.raises(SpartaError, match="did not judge"):
        picture.draw(told(recording(iterations=4)[:30]))
