"""What the parts of a report have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from sparta_lite.show.report import figures
from sparta_lite.show.report.html import Html, tag
from sparta_lite.show.report.reading import RunFiles

NONE = "–"


@dataclass(frozen=True)
class Part:
    """Some HTML with the figures that belong into its places, by name."""

    html: Html
    figures: Mapping[str, go.Figure]


def adapter(run: RunFiles, name: str) -> Html:
    """An adapter's name behind a dot of its colour."""
    number = run.tribe.index(name)
    return tag("span", name, class_=f"adapter {figures.colour(number)}")


def key(run: RunFiles) -> Html:
    """The colours of the adapters, to press: an adapter pressed stands out in every chart."""
    buttons = [
        tag("button", name, type="button", class_=f"adapter {figures.colour(number)}", aria_pressed="false")
        for number, name in enumerate(run.tribe)
    ]
    return tag("div", *buttons, id="key", role="group", aria_label="Adapters")


def percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"


def number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
