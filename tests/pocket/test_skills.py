from __future__ import annotations

import pytest

from sparta_lite.errors import SpartaError
from sparta_lite.pocket import SKILLS, Item, is_right, items
from sparta_lite.pocket.skills import Split, draw

SPLITS: tuple[Split, ...] = ("train", "duel", "validation", "held-out")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
FRENCH = """chat=cat chien=dog soleil=sun mer=sea roi=king pain=bread lait=milk nuit=night jour=day arbre=tree
eau=water main=hand poisson=fish rouge=red noir=black maison=house"""
ANTONYMS = """hot/cold big/small up/down yes/no old/new fast/slow in/out left/right open/shut
wet/dry good/bad rich/poor"""
PAST = """go-went see-saw run-ran eat-ate take-took give-gave come-came sing-sang fly-flew know-knew make-made
find-found tell-told buy-bought do-did get-got"""
PLURALS = """man-men foot-feet tooth-teeth child-children mouse-mice goose-geese ox-oxen knife-knives
leaf-leaves wolf-wolves sheep-sheep person-people half-halves thief-thieves louse-lice loaf-loaves"""


def expected(word: str, rest: str) -> str:
    """The answer by another road than the package's: from the answers back, or by counting."""
    parts = rest.split()
    if word == "capitals":
        return " ".join(chr(ord(letter) - 32) for letter in parts)
    if word == "words":
        return " ".join(NUMBERS[int(digit)] for digit in rest)
    if word == "french":
        english = {pair.split("=")[1]: pair.split("=")[0] for pair in FRENCH.split()}
        return " ".join(english[part] for part in parts)
    if word == "opposites":
        pairs = [pair.split("/") for pair in ANTONYMS.split()]
        return " ".join(next(b if a == part else a for a, b in pairs if part in (a, b)) for part in parts)
    if word == "past":
        return " ".join(dict(pair.split("-") for pair in PAST.split())[part] for part in parts)
    if word == "double":
        return " ".join(str(int(digit) + int(digit)) for digit in rest)
    if word == "next":
        return " ".join(ALPHABET[ALPHABET.index(letter) + 1] for letter in parts)
    if word == "plurals":
        return " ".join(dict(pair.split("-") for pair in PLURALS.split())[part] for part in parts)
    if word == "sort":
        return "".join(digit * rest.count(digit) for digit in "0123456789")
    assert word == "largest"
    return next(digit for digit in "9876543210" if digit in rest)


@pytest.fixture(scope="module")
def everything() -> dict[Split, list[Item]]:
    counts: dict[Split, int] = {"train": 1000, "duel": 1600, "validation": 600, "held-out": 900}
    return {split: items(split, count) for split, count in counts.items()}


def test_answers_agree_with_an_independent_solver(everything: dict[Split, list[Item]]) -> None:
    for item in (item for split in SPLITS for item in everything[split]):
        word, _, rest = item.question.partition(": ")
        assert item.answer == expected(word, rest), item


def test_misconception_and_other_wrong_answers_are_wrong_and_distinct(
    everything: dict[Split, list[Item]],
) -> None:
    for item in (item for split in SPLITS for item in everything[split]):
        said = [item.answer, item.misconception, *item.wrong]
        assert item.wrong
        assert len(set(said)) == len(said), item


def test_splits_never_share_a_question_whatever_the_seed(everything: dict[Split, list[Item]]) -> None:
    for seed in (1, 2):
        for split in SPLITS:
            everything[split] = everything[split] + items(split, 400, seed)
    questions = {split: {item.question for item in everything[split]} for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not questions[one] & questions[other]


def test_a_run_has_enough_distinct_questions_in_every_skill(everything: dict[Split, list[Item]]) -> None:
    for split, least in (("duel", 160), ("held-out", 60)):
        questions = {item.question: item.skill for item in everything[split]}
        assert all(list(questions.values()).count(skill) >= least for skill in SKILLS)


def test_items_are_a_function_of_split_and_seed() -> None:
    assert items("duel", 30, 5) == items("duel", 30, 5)
    assert items("duel", 60, 5)[:30] == items("duel", 30, 5)
    assert items("duel", 30, 5) != items("duel", 30, 6)
    assert draw("french", "train", 3, 17) == draw("french", "train", 3, 17)


def test_asking_for_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(SpartaError, match="too few"):
        items("validation", 5000, 0, skills=("french",))


def test_the_grader_wants_the_exact_answer_and_forgives_only_outer_space() -> None:
    item = Item("double", "double: 341", "6 8 2", "5 6 3", ("6 8 3",))
    assert is_right(item, " 6 8 2\n")
    assert not is_right(item, "6 8 2.")
    assert not is_right(item, "6  8 2")
    assert not is_right(item, "5 6 3")
    assert not is_right(item, "")
