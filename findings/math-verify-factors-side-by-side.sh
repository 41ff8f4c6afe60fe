#!/bin/sh
# math-verify 0.9.0, latex2sympy2_extended 1.11.0, antlr4 4.13.2, sympy 1.14.0, Python 3.11, 2026-11-28
#
# Question: what does `parse` make of numbers that stand side by side in LaTeX?
# Guess: a product: (2)(3) is 6, 2(3) is 6, 2\binom{5}{3} is 20; a mixed number at most where a fraction follows.
# Seen: any whole number followed by any positive rational is a mixed number, that is, a sum, however it is written:
#     (2)(3) -> 5,  2(3) -> 5,  2\binom{5}{3} -> 12,  3 4 -> 7
# A fraction with a slash is divided after the sum (5 1/2 -> 3), and a thin space between thousands makes a product
# with what is behind it (10\,000 -> 0).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 \
    antlr4-python3-runtime==4.13.2 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

seen = {
    r"(2)(3)": 5,
    r"2(3)": 5,
    r"2\binom{5}{3}": 12,
    r"3 4": 7,
    r"5 1/2": 3,
    r"10\,000": 0,
}
for text, value in seen.items():
    said = parse(f"\\boxed{{{text}}}")
    same = verify(parse(f"${value}$"), said)
    print(f"{text:15} {value if same else said}")
    assert same, f"{text} is no longer {value}, but {said}"
assert not verify(parse("$6$"), parse("$(2)(3)$")), "(2)(3) is 6 now"
assert verify(parse("$6$"), parse(r"$2 \cdot 3$"))
PYTHON
