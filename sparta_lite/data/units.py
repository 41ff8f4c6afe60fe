r"""What stands around a number and is none of it: currency, units, degrees, percent, "million".

A unit is dropped. Two that are known and differ keep their numbers apart: 15 m is not 15 cm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparta_lite.data.clauses import words

_KINDS = (
    "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres",
    "in inch inches",
    "ft foot feet",
    "yd yard yards",
    "mi mile miles",
    "mg milligram milligrams",
    "g gram grams gramme grammes",
    "kg kilogram kilograms kilo kilos",
    "lb lbs",
    "oz ounce ounces",
    "ml milliliter milliliters millilitre millilitres",
    "l liter liters litre litres",
    "s sec secs second seconds",
    "min mins minute minutes",
    "h hr hrs hour hours",
    "day days",
    "week weeks",
    "month months",
    "year years",
    "$ dollar dollars usd bucks",
    "€ euro euros eur",
    "cent cents",
    "degree degrees",
    "rad radian radians",
    "am",
    "pm",
)
_KNOWN = {name: kind.split()[0] for kind in _KINDS for name in kind.split()}
_LETTERS = frozenset("mghslLNJWVACF")
"""Units of one letter. Bare, as in 12m, a letter is a variable."""

_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PERCENT = re.compile(words("percent percentage pct"), re.IGNORECASE)
_ORDINAL = re.compile(words("st nd rd th"), re.IGNORECASE)
_NO_UNITS = re.compile(
    words(
        "pi tau sin cos tan cot sec csc log ln exp lim max min gcd lcm mod inf infinity sqrt det"
        " arcsin arccos arctan sinh cosh tanh squared cubed factorial choose half halves thirds?"
        " fourths? quarters? fifths? sixths? eighths? tenths? plus minus times over divided by to"
        " power and or not base if when where than but is are was"
    ),
    re.IGNORECASE,
)
"""Words that change a number, or are none of its units."""
_SHORT = re.compile(words("sq cu per of the an? men mph kph gal pct"), re.IGNORECASE)
"""Words of three letters and less that are no product of variables."""

_POWER = r"(?:\^\{?-?\d\}?)?"
_DRESSED = rf"\\(?:text|mathrm|mbox|hbox|textnormal|textrm|textbf|textit)\s*\{{[^{{}}\d]*\}}{_POWER}"
_BEHIND = re.compile(
    r"(?P<amount>.*?[\d)}%])\s*(?P<degree>\^\\circ\s*)?"
    rf"(?:(?P<dressed>{_DRESSED}(?:\s*[/\s]\s*{_DRESSED})*)|(?P<bare>[A-Za-z][A-Za-z ./-]*{_POWER}))?",
    re.DOTALL,
)
_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_RAISED = re.compile(r"(\d)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm)\{\s*)?(?:st|nd|rd|th)\b\s*\}{0,2}$")
_CURRENCY = re.compile(r"^(-?)\s*(\\[$]|[£€₹])\s*|\s*(\\[$]|[£€₹])$")


@dataclass(frozen=True)
class Amount:
    text: str
    """The number, or whatever it is, without what stands around it."""
    unit: str | None = None
    """A unit that is known, by its shortest name."""
    percent: bool = False
    power: int = 0
    """Of ten: "million" is 6."""


def amount(text: str) -> Amount:
    """``text``, in the spelling of `sparta_lite.data.latex.spelt`, apart from its unit."""
    text = text.strip()
    currency = _CURRENCY.search(text)
    text = _RAISED.sub(r"\1", _CURRENCY.sub(r"\1", text))
    unit = (currency[2] or currency[3]).lstrip("\\") if currency else None
    found = _BEHIND.fullmatch(text)
    if found is None or (found["degree"] and _ANGLE.search(found["amount"])):
        return Amount(text, unit)
    dressed = found["dressed"] is not None
    phrase = re.sub(r"\\[a-z]+", " ", (found["dressed"] if dressed else found["bare"]) or "")
    names = [name.lower() if len(name) > 1 else name for name in re.findall(r"[A-Za-z]+", phrase)]
    if names and not _is_unit(names, may_be_letters=dressed or "/" in phrase):
        return Amount(text, unit)
    text, percent = found["amount"], text.endswith("%")
    power = _POWERS.get(names[0], 0) if names else 0
    if names and _PERCENT.fullmatch(names[0]):
        percent = True
    unit = unit or next((_KNOWN[name] for name in names if name in _KNOWN), None)
    if unit is None and found["degree"] and not names:
        unit = "degree"
    return Amount(text.removesuffix("%").strip(), unit, percent or text.endswith("%"), power)


def is_glued_unit(name: str) -> bool:
    """Whether ``name`` may stand right behind a number and measure it: 12cm, 5th, 9am, but not 12x."""
    return (
        name.lower() in _KNOWN or _ORDINAL.fullmatch(name) is not None or _PERCENT.fullmatch(name) is not None
    )


def _is_unit(names: list[str], may_be_letters: bool) -> bool:
    """Whether words behind a number measure it, rather than go on with it."""
    if any(_NO_UNITS.fullmatch(name) for name in names):
        return False
    if may_be_letters:
        return all(len(name) > 1 or name in _LETTERS for name in names)
    return all(
        len(name) > 3 or (len(name) > 1 and name in _KNOWN) or _SHORT.fullmatch(name) for name in names
    )
