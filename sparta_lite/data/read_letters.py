r"""Letters of choices as people write them: B, (B), **B.**, b), Option B, \textbf{(B)}, "B. metformin".

They go from A to J. A letter is none in "C. difficile", "B cell", "B12", "A's", "Aspirin" or "a patient".
"""

from __future__ import annotations

import re

from sparta_lite.data.clauses import DOUBT, affirmed, words
from sparta_lite.data.latex import undressed
from sparta_lite.data.statements import Kind

_SPECIES = words(
    "difficile perfringens botulinum tetani trachomatis coli cloacae faecalis faecium histolytica"
    " dispar pylori chaffeensis influenzae ducreyi parainfluenzae cereus anthracis subtilis"
    " pertussis burgdorferi recurrentis henselae quintana fragilis melitensis abortus cepacia"
    " albicans glabrata auris neoformans gattii immitis jejuni koseri freundii diphtheriae"
    " jeikeium psittaci pneumoniae burnetii tularensis necrophorum nucleatum lamblia duodenalis"
    " vaginalis fumigatus flavus niger baumannii lumbricoides duodenale hydrophila israelii latum"
    " medinensis dermatitidis capsulatum nana granulosus multilocularis elegans melanogaster rerio"
    " thaliana sapiens bovis microti"
)
"""What makes the letter before it the name of a genus."""

_DRESS = r"[\s*_\"'“”‘’`«»$(\[{<]*"
_SURELY = words("likely probably clearly definitely certainly therefore thus indeed simply")
_OPTION = words("option choice letter answer alternative")
_CALLED = rf"{_DRESS}(?i:{_SURELY}{_DRESS})?(?i:{_OPTION}[\s:]*{_DRESS})?"
_NO_GENUS = rf"(?!\.?\s*{_SPECIES})"
_ALONE = rf"(?![\w’+]|'[a-z]|-\w|\.[A-Za-z]\b){_NO_GENUS}"

_LARGE = re.compile(rf"{_CALLED}([A-J]){_ALONE}")
_SMALL = re.compile(
    rf"{_CALLED}([a-hj])(?:[)\]:]|\.(?!\w\.){_NO_GENUS}|[\s*\"'$]*$|(?=\s+(?:because|since)\b))"
)
_NAME = re.compile(
    r"\s+(?!"
    + words(
        "because since as is for due given rather instead and or not but which while in on here"
        " based it that this the he she they according from with so"
    )
    + ")[a-z]"
)
"""What makes a letter part of a name, or an article: a word in small letters that explains nothing."""
_OTHER = re.compile(
    rf"[\s*_\"')\]}}.$]*(?:(?:,\s*)?\b(?:or|and)\b|[/,&])\s*(?!not\b){_CALLED}([A-J])(?![\w'’])(?!\s+[a-z])"
)
_EITHER = re.compile(rf"\W*{words('either between both')}", re.IGNORECASE)
_IS_WRONG = re.compile(r"\W*\b(?:is|was|seems|are)\s*(?:not\b|n['’]t\b|wrong|incorrect|false)", re.IGNORECASE)
_MORE = re.compile(r"[\s.)*]*\w")

_LEADS = words("so therefore thus hence think believe that say")
_BEFORE = rf"(?:\b(?:option|choice|answer)\s+\(?|(?:^|[.\n]|{_LEADS})[,\s]*[(*]*)"
OUTRIGHT = re.compile(
    rf"{_BEFORE}(?P<value>[A-J])[)*.]*\s+is\s+(?:(?:the|our|my)\s+)?(?:(?:most\s+likely|final)\s+)?"
    + words("correct right best answer"),
    re.IGNORECASE,
)
"""A letter that is said to be right: Option B is correct."""

_MARKED = re.compile(
    r"\(([A-J])\)|\*\*\(?([A-J])\b"  # (B), **B
    rf"|(?<![\w'’.-])([A-J])(?=[.):,](?:\s|$)|\s+[-–—]\s){_ALONE}"  # B. or B) or B -
    r"|^\W*([A-J])\W*$|^\W*([a-hj])[.)](?=\s+\S)(?!\s+[me]\.)",  # B or b. on a line of its own, but a. m.
    re.MULTILINE,
)


def read_letter(said: str, kind: Kind = "named") -> str | None:
    """The letter that a statement gives; see `sparta_lite.data.read_numbers` for what readers return."""
    text = affirmed(undressed(said).replace("$", ""))
    if text is None:
        return None
    if _EITHER.match(text):
        return DOUBT
    found = _LARGE.match(text) or (_SMALL.match(text) if kind != "bare" else None)
    if found is None or (found[1].isupper() and _NAME.match(text, found.end())):
        return None
    if (kind == "bare" and _MORE.match(text, found.end())) or _IS_WRONG.match(text, found.end()):
        return None
    other = _OTHER.match(text, found.end())
    letter = found[1].upper()
    return DOUBT if other and other[1] != letter else letter


def only_letter(text: str, last_line: str) -> str | None:
    """The letter with which a response begins or ends, if it marks no other."""
    text, last_line = undressed(text), undressed(last_line)
    marked = {next(letter for letter in letters if letter).upper() for letters in _MARKED.findall(text)}
    if len(marked) != 1:
        return None
    letter = marked.pop()
    begins = re.compile(
        rf"\W*(?:(?:Option|So|It['’]s|It\s+is)\s+)?\W*(?:{letter}(?!\w)|{letter.lower()}[.)])"
    )
    return letter if any(begins.match(edge) for edge in (text, last_line)) else None
