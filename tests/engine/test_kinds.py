"""Every kind of LoRA that PEFT makes: read to the same logits as PEFT's, written so, or refused by name."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import AdapterFile, load_bank, read_adapter, write_adapter
from sparta_lite.errors import SpartaError

from .kinds import KINDS, Made, make, our_logprobs, peft_logprobs

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[2] / "docs" / "adapters.md"
BEGIN, END = "<!-- kinds -->\n", "<!-- end of kinds -->\n"


class Kinds:
    """The kinds, each made once."""

    def __init__(self, base: Base, base_path: Path, root: Path) -> None:
        self.base, self.base_path, self.root = base, base_path, root
        self.made = cache(lambda name: make(name, base_path, root))
        self.base_of = cache(lambda path: base if path == base_path else load_base(path, CPU))

    def read(self, name: str) -> tuple[Base, AdapterFile, Bank]:
        made: Made = self.made(name)
        base = self.base_of(made.base)
        file = read_adapter(name, made.path)
        return base, file, load_bank(base.decoder, [file])

    def said(self, name: str) -> str:
        """Why a kind is refused; empty: it is read."""
        said = ""
        try:
            self.read(name)
        except SpartaError as error:
            said = str(error)
        assert "\n" not in said
        _, _, said = said.removeprefix(f"adapter {name!r}").partition(": ")
        assert len(said) <= 190
        return said


@pytest.fixture(scope="module")
def kinds(base: Base, base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    return Kinds(base, base_path, tmp_path_factory.mktemp("kinds"))


def test_the_table_in_the_docs_says_what_happens(kinds: Kinds) -> None:
    rows = ["| kind | | why, and what helps |", "| --- | --- | --- |"]
    for name in KINDS:
        said = kinds.said(name)
        rows.append(f"| {name} | {'refused' if said else 'read'} | {said.replace('|', chr(92) + '|')} |")
    table = "\n".join(rows) + "\n"
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    now, after = rest.split(END)
    if os.environ.get("SPARTA_WRITE_DOCS"):
        DOCS.write_text(before + BEGIN + table + END + after)
    else:
        assert now == table, "write it anew with SPARTA_WRITE_DOCS=1"


MAKING = "an unknown setting that is empty, or tells of the making"
LATER = list(KINDS)[list(KINDS).index("DoRA") :]
REFUSED = [name for name in KINDS if "untouched" in name or (name in LATER and name != MAKING)]
READ = [name for name in KINDS if name not in REFUSED]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_of_low_rank_products_is_refused(kinds: Kinds, name: str) -> None:
    assert kinds.said(name)


@pytest.fixture(scope="module")
def together(kinds: Kinds) -> Bank:
    """All that belong on the same base in one bank: ranks from 1 to 32, scales by module beside one scale."""
    files = {name: kinds.made(name) for name in READ}
    return load_bank(
        kinds.base.decoder,
        [read_adapter(name, made.path) for name, made in files.items() if made.base == kinds.base_path],
    )


@pytest.mark.parametrize("name", READ)
def test_logits_are_pefts(kinds: Kinds, together: Bank, name: str) -> None:
    made: Made = kinds.made(name)
    base, _, alone = kinds.read(name)
    torch.testing.assert_close(our_logprobs(base, alone, name), made.logprobs, rtol=0, atol=2e-5)
    assert (our_logprobs(base, alone, None) - made.logprobs).abs().max() > 1e-3
    if base is kinds.base:
        torch.testing.assert_close(our_logprobs(base, together, name), made.logprobs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", READ)
def test_what_is_written_gives_the_same_logits_in_peft(kinds: Kinds, name: str, tmp_path: Path) -> None:
    """Also where PEFT, for the initialisation's sake, would change the base when it loads it."""
    made: Made = kinds.made(name)
    _, file, bank = kinds.read(name)
    write_adapter(tmp_path / "again", bank, name, file.config)
    found: Tensor = peft_logprobs(made.base, tmp_path / "again")
    torch.testing.assert_close(found, made.logprobs, rtol=0, atol=2e-5)
