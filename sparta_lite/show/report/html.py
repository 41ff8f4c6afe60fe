"""Text into HTML: everything is escaped but what this package has made itself."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Finished HTML. A plain ``str`` is text, and is escaped wherever it is put into a page."""


def whole(text: str) -> str:
    """``text`` with a question mark for half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def escape(text: str) -> Html:
    """``text`` as HTML."""
    return text if isinstance(text, Html) else Html(html.escape(whole(text)))


def join(parts: Iterable[str], between: str = "") -> Html:
    return Html(escape(between).join(map(escape, parts)))


def tag(name: str, /, *content: str, **attributes: str) -> Html:
    """One element. An underscore behind an attribute's name is dropped: ``class_``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> Html:
    """A table that scrolls sideways where it is too wide; from column ``texts`` on it holds numbers.

    One whose ``head`` is empty is a mere list of names and values, and is kept narrow.
    """
    kinds = [{} if column < texts else {"class_": "number"} for column in range(len(head))]
    titles = tag(
        "tr", *(tag("th", name, scope="col", **kind) for name, kind in zip(head, kinds, strict=True))
    )
    top, kind = ([tag("thead", titles)], "") if any(head) else ([], "plain")
    body = [
        tag("tr", *(tag("td", cell, **kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    ]
    return tag("div", tag("table", *top, tag("tbody", *body), class_=kind), class_="scroll")


def section(name: str, title: str, *content: str) -> Html:
    """A part of the page, reached as ``#name``."""
    return tag("section", tag("h2", title), *content, id=name)


def paragraph(*content: str) -> Html:
    return tag("p", *content)


def note(*content: str) -> Html:
    """A paragraph that explains a figure rather than says something of the run."""
    return tag("p", *content, class_="note")


def chart(name: str, what: str) -> Html:
    """The place of the figure ``name``; ``what`` is said to those who cannot see it."""
    return tag("div", class_="chart", id=f"chart-{name}", role="img", aria_label=what)


def folded(title: str, *content: str) -> Html:
    """Something that is there for whoever opens it."""
    return tag("details", tag("summary", title), *content)
