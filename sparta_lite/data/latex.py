r"""LaTeX as text: what a box holds, where a list parts, and one plain spelling for what looks the same.

Nothing here computes. `sparta_lite.data.numerals` and `sparta_lite.data.expressions` read the plain spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LONGEST_BOX = 600

_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*(?=\{)|\s+(?=[^\s{}$\\])|(?=\d))")
_UNBRACED = re.compile(r"[^\s{}$\\,;]+")

FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|arcsin|arccos|arctan|min|max|gcd|lcm|mod|infinity|inf"
_MATHEMATICS = re.compile(
    r"(?:\s+|\d+|\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{[^{}]*\}|\\[a-zA-Z]+|\\."
    r"|[-+*/^=<>()\[\]{}|,.!%:_;&'~√π∞≤≥≠±°²³−×·÷½]"
    rf"|(?:and|or)\b|(?:{FUNCTIONS})(?![a-zA-Z])|(?![aAI]\s+[a-zA-Z]{{2}})[a-zA-Z](?![a-zA-Z]))+"
)
"""Symbols, commands and single letters, up to the first word."""
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")

_NO_TEXT = re.compile(r"~~[^~\n]*~~|</?(?:b|strong|i|em|u|code|p|br)\s*/?>")
"""What is struck out, and tags of HTML that only dress."""
_ROWS = r"align|aligned|alignat|gather|gathered|equation|multline|eqnarray|split|displaymath|math"
_ENVIRONMENT = re.compile(rf"\\begin\{{((?:{_ROWS})\*?)\}}(?:\{{\d+\}})?(.*?)\\end\{{\1\}}", re.DOTALL)
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:boxed|fbox|[dt]?frac|sqrt|left|right|text|mathrm|pi|times|cdot|le|leq|ge|geq|pm|cup|infty|circ)(?![a-zA-Z])"
    r"|begin\{|end\{)"
)
"""A command whose backslash was escaped: a row that breaks before it would take three."""
_IN_DISPLAY = re.compile(r"(?:aligned|gathered|split)\*?")
_LABELS = re.compile(r"\\(?:tag|label)\*?\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])")
_TABLES = re.compile(
    r"(\\begin\{(?:[a-zA-Z]*matrix|array|cases)\}.*?\\end\{(?:[a-zA-Z]*matrix|array|cases)\})", re.DOTALL
)
_DISPLAY = re.compile(
    r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\\\[(.+?)(?<!\\)\\\]|(?<!\\)\\\(((?:[^\n]|\n(?!\s*\n))+?)(?<!\\)\\\)",
    re.DOTALL,
)
_FORMULA = re.compile(r"(?<!\\)\$((?:\\.|[^$\\\n])+)\$")

_CHARACTERS = str.maketrans(
    {
        "−": "-", "‐": "-", "‑": "-",
        "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∗": "*", "÷": r"\div ",
        "⁄": "/", "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
        "≈": r"\approx ",
        "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ", "％": "%",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4",
        "¾": " 3/4", "⅛": " 1/8", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'",
    }
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_SPELLINGS = (
    # dress that has no meaning
    (r"\\(?:left|right|middle|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|limits)(?![a-zA-Z])(?:\.(?!\d))?", ""),
    # thousands, however they are set apart; the comma alone is left to those who know what stands around it
    (r"(?<=\d)(?:\s*\{\s*,\s*\}\s*|\s*,\s*\\!\s*|\\[,;: ])(?=\d{3}(?!\d))", ""),
    (r"(?<![\d.,^_/])(\d{1,3})((?: \d{3})+)(?![\d,/])", lambda found: found[0].replace(" ", "")),
    (r"(?<![\w.,])(\d{1,3})((?:['_]\d{3})+)(?![\w'])", lambda found: re.sub("['_]", "", found[0])),
    # spaces
    (r"\\!|(?<!\\)\\(?=\n)", ""),
    (r"(?<!\\)\\[,:;> ]|~|\\(?:quad|qquad|thinspace|enspace|space)(?![a-zA-Z])", " "),
    (r"\{\s*,\s*\}", ","),
    # one name for one thing
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:dbinom|tbinom)(?![a-zA-Z])", r"\\binom"),
    (r"\\(?:lt|gt)(?![a-zA-Z])", lambda found: "<" if found[0] == r"\lt" else ">"),
    (r"\\(?:le|leqslant)(?![a-zA-Z])|(?<![<>=])<=(?!=)", r"\\leq "),
    (r"\\(?:ge|geqslant)(?![a-zA-Z])|(?<![<>=])>=(?!=)", r"\\geq "),
    (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
    (r"==", "="),
    (r"\\(?:lbrace|\{)", r"\\{"),
    (r"\\(?:rbrace|\})", r"\\}"),
    (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset "),
    (r"\\(?:dots|ldots|cdots)(?![a-zA-Z])", "..."),
    (r"\\degrees?(?![a-zA-Z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])", r"^\\circ "),
    (r"\\%", "%"),
    (r"\\(?:langle|lparen)(?![a-zA-Z])", "("),
    (r"\\(?:rangle|rparen)(?![a-zA-Z])", ")"),
    # arguments without braces are one token long, as TeX takes them; a plain exponent is a whole number
    (r"\\frac\s*(\d|[a-zA-Z])\s*(\d|[a-zA-Z])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d|[a-zA-Z])\s*(?=\{)", r"\\frac{\1}"),
    (r"\\frac\s*(\{[^{}]*\})\s*(\d|[a-zA-Z])", r"\\frac\1{\2}"),
    (r"\\frac\s+(?=\{)|(?<=\\frac)\s+", r"\\frac"),
    (r"\\sqrt\s*(\d|[a-zA-Z])", r"\\sqrt{\1}"),
    # repeating decimals
    (r"\\(?:overline|bar)\s*(\d)", r"\\overline{\1}"),
    (r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}"),
    ("(?:\\d\u0305)+", lambda found: rf"\overline{{{found[0].replace(chr(0x305), '')}}}"),
    (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<=[\w)}])\*\*(?=\s*-?[\d({])", "^"),
    (r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}"),
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),
    (r"_\s*(\d+|[a-zA-Z])(?!\w)", r"_{\1}"),
    (r"(?<=\d)( ?)[xX]\1(?=\d)", r" \\times "),
)  # fmt: skip
"""What is spelt in several ways and how it is spelt here, in the order in which it is replaced."""

_SPELT = [(re.compile(pattern), plain) for pattern, plain in _SPELLINGS]

_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|emph|underline)"
    r"\s*\{([^{}]*)\}"
)
_STEP = re.compile(
    r"(?P<opens>\\begin\{[a-zA-Z]*\*?\}|\\\{|[({\[])|(?P<closes>\\end\{[a-zA-Z]*\*?\}|\\\}|[)}\]])"
    r"|\\[a-zA-Z]+|\\.",
    re.DOTALL,
)


def boxes(text: str) -> list[tuple[int, str]]:
    r"""Place and content of every ``\boxed{}`` that is closed, outermost and inner ones alike."""
    return [(start, content) for start, _, content in boxed(text)]


def boxed(text: str) -> Iterator[tuple[int, int, str]]:
    """Like `boxes`, with the place behind each."""
    for start in _BOX.finditer(text):
        rest = text[start.end() : start.end() + _LONGEST_BOX]
        if rest.startswith("{"):
            content = group(rest)
            if content is not None:
                yield start.start(), start.end() + len(content) + 2, content
        elif found := _UNBRACED.match(rest):
            yield start.start(), start.end() + found.end(), found[0].rstrip(".")


def group(text: str) -> str | None:
    """What the braces hold that ``text`` begins with."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[1:place]
    return None


def undressed(text: str) -> str:
    r"""``text`` without ``\text{}`` and its kin around words."""
    return _DRESS.sub(r"\1", _DRESS.sub(r"\1", text))


def without_commands(text: str) -> str:
    """``text`` without LaTeX's commands and the words within them."""
    return _COMMAND.sub("", text)


def leading_mathematics(text: str) -> str | None:
    """The mathematics with which ``text`` begins; None where that is nothing."""
    found = _MATHEMATICS.match(text)
    return found[0] if found else None


def one_line(text: str) -> str:
    r"""``text`` with all its formulas between single dollars, those on lines of their own too.

    Rows of an ``align`` follow each other, parted by ``\\``.
    """
    text = _DOUBLED.sub(r"\\", _NO_TEXT.sub("", text))
    text = _ENVIRONMENT.sub(_without_environment, text)
    text = re.sub(r"(\$\$|\\\[)\s*\\\[", r"\\[", re.sub(r"\\\]\s*(\$\$|\\\])", r"\\]", text))
    return _DISPLAY.sub(lambda found: f"${_flat(found[1] or found[2] or found[3])}$", text)


def formulas(text: str) -> list[re.Match[str]]:
    """The formulas of a text that `one_line` has written."""
    return list(_FORMULA.finditer(text))


def spelt(text: str) -> str:
    """``text`` in the one spelling that the readers know."""
    text = text.translate(_CHARACTERS)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda raised: f"^{{{raised[0].translate(_RAISED)}}}", text)
    text = _DOUBLED.sub(r"\\", text)
    for pattern, plain in _SPELT:
        text = pattern.sub(plain, text)
    return " ".join(text.split())


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of ``text`` between separators that stand in no bracket and no table."""
    if not separator.search(text):
        return [text]
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        found = separator.match(text, place) if depth == 0 else None
        if found is not None and found.end() > place:
            parts.append(text[start:place])
            start = place = found.end()
            continue
        if found := _STEP.match(text, place):
            depth = max(depth + (1 if found["opens"] else -1 if found["closes"] else 0), 0)
            place = found.end()
        else:
            place += 1
    return [*parts, text[start:]]


def is_enclosed(text: str) -> bool:
    """Whether the bracket with which ``text`` begins is closed by its last character."""
    depth, place = 0, 0
    while place < len(text):
        found = _STEP.match(text, place)
        depth += 0 if found is None else 1 if found["opens"] else -1 if found["closes"] else 0
        place = found.end() if found else place + 1
        if depth == 0:
            return place == len(text)
    return False


def _without_environment(found: re.Match[str]) -> str:
    parts = _TABLES.split(_LABELS.sub("", found[2]))
    rows = "".join(part if table % 2 else re.sub(r"(?<!\\)&", "", part) for table, part in enumerate(parts))
    return rows if _IN_DISPLAY.fullmatch(found[1]) else rf"\[{rows}\]"


def _flat(formula: str) -> str:
    return " ".join(formula.replace("$", "").split()) if r"\$" not in formula else " ".join(formula.split())
