"""One self-contained HTML file: style, scripts, figures and data in it; nothing is ever requested."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sparta_lite import __version__
from sparta_lite.campaign.store import ABLATION
from sparta_lite.files import write_text
from sparta_lite.show.report.ablation import ablation_parts, about_ablation, read_ablation
from sparta_lite.show.report.duels import packed
from sparta_lite.show.report.html import Html, escape, tag
from sparta_lite.show.report.parts import Part, key
from sparta_lite.show.report.reading import read_run
from sparta_lite.show.report.sections import about, run_parts

_ASSETS = Path(__file__).parent / "assets"


def write_run_report(root: Path, out: Path) -> None:
    """Write the report of the run in ``root`` to ``out``.

    Raises:
        SpartaError: the directory is no run, is damaged, or the report cannot be written.
    """
    run = read_run(root)
    place = root.resolve()
    of_ablation = (place.parents[1] / ABLATION).is_file() if len(place.parents) > 1 else False
    name = f"{place.parent.name}, {place.name}" if of_ablation else place.name
    duels = packed(run.tribe, run.iterations)
    write_text(out, page(name, about(run), run_parts(run), key(run.tribe, "Adapters"), duels))


def write_ablation_report(root: Path, out: Path) -> None:
    """Write the report of the ablation in ``root`` to ``out``.

    Raises:
        SpartaError: not all of its runs are finished, a file is damaged, or the report cannot be written.
    """
    found = read_ablation(root)
    name = root.resolve().name
    parts = ablation_parts(found, out.resolve().parent)
    write_text(out, page(name, about_ablation(found), parts, key(found.names, "Arms")))


def page(title: str, subtitle: Html, parts: Sequence[Part], key: Html, duels: str = "") -> str:
    """The whole file.

    Args:
        title: its heading.
        subtitle: the line below it.
        parts: its sections.
        key: what stays in view above them, such as the colours.
        duels: what ``duels.packed`` gave; empty where there is nothing to browse.
    """
    figures: dict[str, go.Figure] = {}
    for part in parts:
        figures.update(part.figures)
    scripts = [_script(get_plotlyjs()), _script(_asset("report.js"))]
    switch = tag("button", "Dark", type="button", id="theme")
    head = tag("header", tag("div", tag("h1", title), switch), tag("p", subtitle, class_="about"))
    foot = tag("footer", f"sparta-lite {__version__}. This file needs no network.")
    body = tag(
        "body",
        tag("main", head, key, *(part.html for part in parts), foot),
        _data("figures", "application/json", _figures(figures)),
        _data("packed", "text/plain", Html(duels)),
        *scripts,
    )
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in map(_inner, scripts))
    return f'<!doctype html>\n<html lang="en">{_head(title, hashes)}{body}</html>\n'


def _head(title: str, hashes: str) -> Html:
    """The policy lets only the page's own scripts run, and lets nothing leave the file."""
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return Html(
        '<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)} · sparta-lite</title><style>{_asset('report.css')}</style></head>"
    )


def _figures(figures: Mapping[str, go.Figure]) -> Html:
    """JSON that cannot end the element that it stands in."""
    together = {name: json.loads(figure.to_json()) for name, figure in figures.items()}
    text = json.dumps(together, separators=(",", ":"), allow_nan=False)
    return Html(text.replace("<", "\\u003c"))


def _data(name: str, kind: str, content: Html) -> Html:
    return Html(f'<script id="{name}" type="{kind}">{content}</script>')


def _script(code: str) -> Html:
    assert "</script" not in code.lower()
    return Html(f"<script>{code}</script>")


def _inner(script: Html) -> str:
    return script.removeprefix("<script>").removesuffix("</script>")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
