#!/bin/sh
# safetensors 0.8.0, numpy 2.4.6, Python 3.11, 2026-11-28
#
# Question: `save_file` writes the same tensors with the same metadata twice. Are the two files equal, so that a hash of the file
# says whether a model is the same?
# Guess: yes; tensors are sorted when they are written, so that the form is a function of what it holds.
# Seen: tensors are, metadata are not: of several lines of metadata the order changes from one call to the next, in one process.
#     one line of metadata:    20 files with 1 content
#     three lines of metadata: 20 files with more than 1 content
# Hub's `save_torch_model` writes a line for every tied weight beside the `format`, so two exports of one model with a tied
# embedding differ in their hash. A hash of tensors, or one line of metadata, does not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import hashlib
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save_file

file = Path(sys.argv[1]) / "model.safetensors"
tensors = {name: numpy.arange(4, dtype=numpy.float32) for name in ("a", "b", "c")}


def different(metadata: dict[str, str]) -> int:
    found = set()
    for _ in range(20):
        save_file(tensors, file, metadata)
        found.add(hashlib.sha256(file.read_bytes()).hexdigest())
    return len(found)


one = different({"format": "pt"})
three = different({"format": "pt", "lm_head.weight": "embed.weight", "made by": "hand"})
print(f"one line of metadata:    20 files with {one} content")
print(f"three lines of metadata: 20 files with {'more than 1' if three > 1 else 1} content")
assert one == 1 < three
PYTHON
