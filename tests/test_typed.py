"""JSON read as types: exact where it fits, one short line where it does not."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE, Count, Form, Number, parse, read_bytes


@dataclass(frozen=True)
class Row:
    number: Count
    values: dict[str, tuple[Number, ...]]
    name: str | None = None


ROW = Form(Row)


def test_what_fits_is_read_and_what_is_unknown_passed_over() -> None:
    data = b'{"name": "\xe6\x9d\xb1", "number": 3, "values": {"a": [1, 2.5]}, "more": [null]}'
    assert ROW.of(data, "x") == Row(3, {"a": (1.0, 2.5)}, "東")
    assert ROW.lines(data + b"\n" + data[:20], Path("x")) == [ROW.of(data, "x")]


def test_numbers_come_back_bit_for_bit() -> None:
    """As Python's own reader gives them: a resumed run goes on from these."""
    rng = random.Random(0)
    numbers = [struct.unpack("d", rng.randbytes(8))[0] for _ in range(20_000)]
    numbers = [number for number in numbers if abs(number) < 1e30] + [rng.gauss(0, 50) for _ in range(20_000)]
    text = json.dumps({"number": 2**53, "values": {"a": numbers, "b": [0.1 + 0.2, 5e-324, -0.0]}})
    read = ROW.of(text.encode(), "x")
    assert read.values == {name: tuple(each) for name, each in json.loads(text)["values"].items()}
    assert read.number == 2**53


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", "lacks number, values"),
        (b'{"number": 1, "values": {"a b": [true]}}', "values.'a b'.0 is true"),
        (b'{"number": 1.0, "values": {}}', "number is 1.0; it should be a valid integer"),
        (b'{"number": true, "values": {}}', "number is true"),
        (b'{"number": -1, "values": {}}', "number is -1; it should be greater than or equal to 0"),
        (b'{"number": "1", "values": {}}', "number is '1'"),
        (b'{"number": 1, "values": {"a": [NaN]}}', "values.a.0 is nan"),
        (b'{"number": 1, "values": {"a": [1e999]}}', "values.a.0 is inf"),
        (b'{"number": 1, "values": {"a": [1e300]}}', "values.a.0 is 1e+300"),
        (b'{"number": ' + b"9" * 5000 + b"}", "not valid JSON (number out of range"),
        (b'{"number": ' + b"9" * 4000 + b', "values": {}}', "number is a number of 4001 digits"),
        (b"[" * 100_000, "not valid JSON (recursion limit exceeded"),
        (b'{"number": 1, "values": {"' + b"k" * 9000 + b'": 5}}', "values."),
        (b'{"number": 1, "values": {}, "name": "\\ud800"}', "not valid JSON"),
        (b'{"number": 1, "values": {}, "name": "\xff"}', "not valid JSON (invalid unicode code point"),
        (b"null", "is null, not an object"),
        (b"[1, 2]", "is [1, 2]; it should be an object"),
        (b"", "not valid JSON"),
    ],
)
def test_what_does_not_fit_is_one_short_line(data: bytes, said: str) -> None:
    with pytest.raises(SpartaError) as refused:
        ROW.of(data, "file, line 7")
    message = str(refused.value)
    assert message.startswith(f"file, line 7: {said}")
    assert message.endswith(RESTORE)
    assert len(message) <= 300
    assert message.isprintable()


def test_a_line_is_named_by_its_number() -> None:
    good = b'{"number": 1, "values": {}}\n'
    with pytest.raises(SpartaError, match=r"^rows\.jsonl, line 3: lacks values"):
        ROW.lines(good + good + b'{"number": 2}\n' + good, Path("rows.jsonl"))
    with pytest.raises(SpartaError, match=r"^rows\.jsonl, line 2: not valid JSON"):
        ROW.lines(good + b"\n", Path("rows.jsonl"))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpartaError, match="gone: no such file"):
        read_bytes(tmp_path / "gone")
    with pytest.raises(SpartaError, match="Is a directory"):
        ROW.file(tmp_path)


def test_any_json_is_parsed_but_what_is_no_number() -> None:
    assert parse(b'{"a": [1, null, "x"]}', "x") == {"a": [1, None, "x"]}
    for data in (b"[NaN]", b"[Infinity]", b"[" * 100_000, b"9" * 5000, b"\xff", b"{"):
        with pytest.raises(SpartaError, match=r"^x: not valid JSON"):
            parse(data, "x")
