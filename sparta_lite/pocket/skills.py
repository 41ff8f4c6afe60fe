"""Ten small skills, each with right answers, one common misconception and other plausible slips.

A question names its skill and three or four things to treat, such as ``french: cat sun red``. Which
split a question belongs to is a hash of its text alone, so no two splits can share a question.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator, key

Split = Literal["train", "duel", "validation", "held-out"]

_SHARES: dict[Split, int] = {"train": 55, "duel": 20, "validation": 10, "held-out": 15}  # percent

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_FRENCH = {
    "cat": "chat",
    "dog": "chien",
    "sun": "soleil",
    "sea": "mer",
    "king": "roi",
    "bread": "pain",
    "milk": "lait",
    "night": "nuit",
    "day": "jour",
    "tree": "arbre",
    "water": "eau",
    "hand": "main",
    "fish": "poisson",
    "red": "rouge",
    "black": "noir",
    "house": "maison",
}
_OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "yes": "no",
    "old": "new",
    "fast": "slow",
    "in": "out",
    "left": "right",
    "open": "shut",
    "wet": "dry",
    "good": "bad",
    "rich": "poor",
}
_OPPOSITES |= {right: left for left, right in _OPPOSITES.items()}
_PAST = {
    "go": "went",
    "see": "saw",
    "run": "ran",
    "eat": "ate",
    "take": "took",
    "give": "gave",
    "come": "came",
    "sing": "sang",
    "fly": "flew",
    "know": "knew",
    "make": "made",
    "find": "found",
    "tell": "told",
    "buy": "bought",
    "do": "did",
    "get": "got",
}
_PLURALS = {
    "man": "men",
    "foot": "feet",
    "tooth": "teeth",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "sheep": "sheep",
    "person": "people",
    "half": "halves",
    "thief": "thieves",
    "louse": "lice",
    "loaf": "loaves",
}


@dataclass(frozen=True)
class Item:
    """One question with what may be said to it; ``wrong`` holds neither answer nor misconception."""

    skill: str
    question: str
    answer: str
    misconception: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    """Things in question order, and the parts of the answers, joined by ``glue``."""

    things: list[str]
    right: list[str]
    mistaken: list[str]
    slips: list[list[str]]
    glue: str = " "
    question_glue: str = " "


def is_right(item: Item, text: str) -> bool:
    """Whether ``text``, stripped, is exactly the item's answer."""
    return text.strip() == item.answer


def split_of(question: str) -> Split:
    """The split that ``question`` belongs to, by a hash of its text."""
    place = key("pocket split", question) % 100
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares of the splits sum to 100")


def draw(skill: str, split: Split, seed: int, number: int) -> Item:
    """Item ``number`` of an endless stream; a pure function of its arguments, repeats are possible."""
    word, drafted = _SKILLS[skill]
    rng = generator("pocket item", word, split, seed, number)
    while True:
        draft = drafted(rng)
        question = f"{word}: {draft.question_glue.join(draft.things)}"
        if split_of(question) != split:
            continue
        answer, misconception, *wrong = (
            draft.glue.join(parts) for parts in (draft.right, draft.mistaken, *draft.slips)
        )
        distinct = tuple(slip for slip in dict.fromkeys(wrong) if slip not in (answer, misconception))
        if misconception != answer and distinct:
            return Item(skill, question, answer, misconception, distinct)


def items(split: Split, count: int, seed: int = 0, skills: tuple[str, ...] | None = None) -> list[Item]:
    """``count`` distinct items of ``split``, the skills taking turns.

    Raises:
        SpartaError: a skill's split holds fewer distinct questions than asked for.
    """
    chosen = skills or SKILLS
    found: list[Item] = []
    seen: set[str] = set()
    numbers = dict.fromkeys(chosen, 0)
    while len(found) < count:
        skill = chosen[len(found) % len(chosen)]
        for number in range(numbers[skill], numbers[skill] + 2000):
            item = draw(skill, split, seed, number)
            if item.question not in seen:
                break
        else:
            raise SpartaError(
                f"pocket: {skill} has too few {split} questions for {count} items; ask for fewer"
            )
        numbers[skill] = number + 1
        seen.add(item.question)
        found.append(item)
    return found


def _one_by_one(
    rng: random.Random,
    things: list[str],
    right: Callable[[str], str],
    mistaken: Callable[[str], str],
    pool: list[str],
    question_glue: str = " ",
) -> _Draft:
    """Every thing is treated for itself: slips mix right and mistaken, stray to others, or swap places."""
    answer = [right(thing) for thing in things]
    misconception = [mistaken(thing) for thing in things]
    mixed = [[rng.choice(pair) for pair in zip(answer, misconception, strict=True)] for _ in range(2)]
    stray = list(answer)
    stray[rng.randrange(len(stray))] = right(rng.choice(pool))
    slips = [*mixed, stray, _swapped(rng, answer)]
    return _Draft(things, answer, misconception, slips, question_glue=question_glue)


def _swapped(rng: random.Random, parts: list[str]) -> list[str]:
    at = rng.randrange(len(parts) - 1)
    return [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]


def _capitals(rng: random.Random) -> _Draft:
    pool = list(string.ascii_lowercase)
    return _one_by_one(rng, rng.sample(pool, rng.choice((3, 4))), str.upper, str.lower, pool)


def _words(rng: random.Random) -> _Draft:
    pool = list(string.digits)
    things = rng.choices(pool, k=rng.choice((3, 4)))
    return _one_by_one(
        rng,
        things,
        lambda d: _DIGIT_WORDS[int(d)],
        lambda d: _DIGIT_WORDS[int(d) + 1],
        pool,
        question_glue="",
    )


def _french(rng: random.Random) -> _Draft:
    pool = list(_FRENCH)
    neighbour = dict(zip(pool, [*pool[1:], pool[0]], strict=True))
    return _one_by_one(rng, rng.sample(pool, 3), lambda w: _FRENCH[w], lambda w: _FRENCH[neighbour[w]], pool)


def _opposites(rng: random.Random) -> _Draft:
    pool = list(_OPPOSITES)
    return _one_by_one(rng, rng.sample(pool, 3), lambda w: _OPPOSITES[w], str, pool)


def _past(rng: random.Random) -> _Draft:
    pool = list(_PAST)
    return _one_by_one(
        rng, rng.sample(pool, 3), lambda w: _PAST[w], lambda w: f"{w.removesuffix('e')}ed", pool
    )


def _double(rng: random.Random) -> _Draft:
    pool = list("013456789")  # without 2, where doubling and adding 2 agree
    things = rng.choices(pool, k=rng.choice((3, 4)))
    return _one_by_one(
        rng, things, lambda d: str(int(d) * 2), lambda d: str(int(d) + 2), pool, question_glue=""
    )


def _next(rng: random.Random) -> _Draft:
    pool = list(string.ascii_lowercase[:12])
    return _one_by_one(rng, rng.sample(pool, 3), lambda c: chr(ord(c) + 1), lambda c: chr(ord(c) + 2), pool)


def _plurals(rng: random.Random) -> _Draft:
    pool = list(_PLURALS)
    return _one_by_one(rng, rng.sample(pool, 3), lambda w: _PLURALS[w], lambda w: f"{w}s", pool)


def _sort(rng: random.Random) -> _Draft:
    things = rng.sample(string.digits, 4)
    right = sorted(things)
    stray = list(right)
    stray[rng.randrange(len(stray))] = rng.choice([d for d in string.digits if d not in things])
    slips = [_swapped(rng, right), _swapped(rng, right[::-1]), things, stray]
    return _Draft(things, right, right[::-1], slips, glue="", question_glue="")


def _largest(rng: random.Random) -> _Draft:
    things = rng.sample(string.digits, 4)
    ordered = sorted(things, reverse=True)
    others = [*ordered[2:], rng.choice([d for d in string.digits if d not in things])]
    return _Draft(things, ordered[:1], ordered[1:2], [[other] for other in others], question_glue="")


# The first word of a skill's questions, and what drafts them. An adapter takes its skill's name, and PEFT
# cannot take an adapter called "double": torch modules have a method of that name.
_SKILLS: dict[str, tuple[str, Callable[[random.Random], _Draft]]] = {
    "capitals": ("capitals", _capitals),
    "words": ("words", _words),
    "french": ("french", _french),
    "opposites": ("opposites", _opposites),
    "past": ("past", _past),
    "doubling": ("double", _double),
    "next": ("next", _next),
    "plurals": ("plurals", _plurals),
    "sort": ("sort", _sort),
    "largest": ("largest", _largest),
}
SKILLS: tuple[str, ...] = tuple(_SKILLS)
