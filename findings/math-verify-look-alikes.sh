#!/bin/sh
# math-verify 0.9.0, latex2sympy2_extended 1.11.0, antlr4 4.13.2, sympy 1.14.0, Python 3.11, 2026-11-28
#
# Question: does `verify` keep apart what only looks alike, where there are no decimals?
# Guess: it does: numerals of other bases differ, powers differ, a number differs from its product with a variable;
# and i is the root of -1.
# Seen: none of it.
#     52_8 and 52_9 are equal: the subscript of a number is dropped, the base with it
#     12 and 12t are equal: a last letter that may be short for a unit is dropped (also d, h, m, s, ...)
#     2^{-98} and 2^{-99} are equal: so are all whose difference is below some 1e-15, whatever their size
#     -1 and i^2 are not: i is a variable; I, of all letters, is the root of -1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 \
    antlr4-python3-runtime==4.13.2 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

seen = [
    ("52_8", "52_9", True),
    ("12", "12t", True),
    ("2^{-98}", "2^{-99}", True),
    ("-1", "i^2", False),
    ("-1", r"I \cdot I", True),
]
for gold, said, same in seen:
    found = verify(parse(f"${gold}$"), parse(f"${said}$"))
    print(f"{gold:11} {said:11} {found}")
    assert found == same, f"{gold} and {said}: {found} now"
PYTHON
