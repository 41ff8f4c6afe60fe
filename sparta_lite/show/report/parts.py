"""What the parts of a report have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sparta_lite.show.report import figures
from sparta_lite.show.report.html import Html, join, tag
from sparta_lite.show.report.reading import RunFiles

NONE = "–"


@dataclass(frozen=True)
class Part:
    """Some HTML with the figures that belong into its places, by name."""

    html: Html
    figures: Mapping[str, go.Figure]


def adapter(run: RunFiles, name: str) -> Html:
    """An adapter's name behind a dot of its colour; a hostile one is marked."""
    shown = dotted(run.tribe, name)
    return join([shown, " (hostile)"]) if name in run.started.hostile else shown


def dotted(names: Sequence[str], name: str) -> Html:
    """One of ``names``, behind a dot of the colour that it has by its place."""
    return tag("span", name, class_=f"adapter {figures.colour(names.index(name))}")


def key(names: Sequence[str], what: str) -> Html:
    """The colours of all ``names``, to press: one that is pressed stands out in every chart."""
    buttons = [
        tag("button", name, type="button", class_=f"adapter {figures.colour(number)}", aria_pressed="false")
        for number, name in enumerate(names)
    ]
    return tag("div", *buttons, id="key", role="group", aria_label=what)


def percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"


def number(value: float | None, form: str) -> str:
    """With a true minus sign, as wide as the plus."""
    return NONE if value is None else format(value, form).replace("-", "−")
