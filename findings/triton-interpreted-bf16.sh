#!/bin/sh
# triton 3.9.0, torch 2.13.0, numpy 2.4.6, Python 3.11, 2026-11-28
#
# Question: with TRITON_INTERPRET=1 a kernel runs on a CPU. What does one give that adds, multiplies or sums bfloat16?
# Guess: what torch gives, but for roundings: such numbers are computed in float32 and rounded to nearest.
# Seen: loading them and `.to(tl.float32)` are right, and all else is not. Sums, products and `tl.sum` of the
# bfloat16 numbers themselves are those of their 16-bit patterns as integers, without a warning, and
# `.to(tl.bfloat16)` cuts off where torch and a card round:
#     1 + 0.75 = 1.2760588759535192e+38, 1 * 0.75 = 3.6893488147419103e+19, the sum of 64 ones = -3.6893488147419103e+19
#     of 1024 normal numbers 499 are cast otherwise than by torch, all of them by cutting off
# So an interpreted test of a kernel in bfloat16 says nothing of it unless it goes through float32 everywhere.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet triton==3.9.0 torch==2.13.0 numpy==2.4.6
cat > "$folder/kernels.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def pairs(x, y, sums, products, through):
    a, b = tl.load(x), tl.load(y)
    tl.store(sums, (a + b).to(tl.float32))
    tl.store(products, (a * b).to(tl.float32))
    tl.store(through, a.to(tl.float32) * b.to(tl.float32))


@triton.jit
def total(x, result, N: tl.constexpr):
    tl.store(result, tl.sum(tl.load(x + tl.arange(0, N)), axis=0).to(tl.float32))


@triton.jit
def cast(x, result, N: tl.constexpr):
    places = tl.arange(0, N)
    tl.store(result + places, tl.load(x + places).to(tl.bfloat16))


def as_integers(number):
    """The bfloat16 number that has the lower 16 bits of an integer for its pattern."""
    return (number & 0xFFFF).to(torch.int32).bitwise_left_shift(16).view(torch.float32)


x, y, ones = (torch.tensor(each, dtype=torch.bfloat16) for each in ([1.0], [0.75], [1.0] * 64))
a, b, c = (each.view(torch.int16).long() for each in (x, y, ones))
added, multiplied, through, summed = (torch.zeros(1) for _ in range(4))
pairs[(1,)](x, y, added, multiplied, through)
total[(1,)](ones, summed, 64)
print(f"1 + 0.75 = {added.item()}, 1 * 0.75 = {multiplied.item()}, the sum of 64 ones = {summed.item()}")
assert through.item() == 0.75
assert torch.equal(added, as_integers(a + b)) and added.item() != 1.75
assert torch.equal(multiplied, as_integers(a * b)) and multiplied.item() != 0.75
assert torch.equal(summed, as_integers(c.sum()[None])) and summed.item() != 64

numbers = torch.randn(1024, generator=torch.Generator().manual_seed(0))
result = torch.zeros(1024, dtype=torch.bfloat16)
cast[(1,)](numbers, result, 1024)
cut = (numbers.view(torch.int32) & -65536).view(torch.float32)
apart = int((result != numbers.bfloat16()).sum())
print(f"of 1024 normal numbers {apart} are cast otherwise than by torch, all of them by cutting off")
assert apart > 400
assert torch.equal(result.float(), cut)
PYTHON
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/kernels.py"
