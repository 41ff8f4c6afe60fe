#!/bin/sh
# datasets 4.8.5, pyarrow 26.0.1, Python 3.11, 2026-11-28
#
# Question: a column of a JSON lines file holds texts in some rows and numbers in others, as answers often do. What
# does `load_dataset("json")` make of the texts?
# Guess: it refuses the column, or makes texts of all its values.
# Seen: neither. The column becomes one of JSON values, and every text that itself reads as JSON is decoded:
#     ['007', 'null', '[1]', 'yes', 3] -> [7, None, [1], 'yes', 3]
# Without the number the same texts stay as they are. So one row changes the values of all others.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==4.8.5 pyarrow==26.0.1
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from datasets import disable_progress_bars, load_dataset

disable_progress_bars()


def read(values):
    path = Path(sys.argv[1]) / f"rows{len(values)}.jsonl"
    path.write_text("".join(json.dumps({"answer": value}) + "\n" for value in values))
    return load_dataset("json", data_files=str(path), split="train")["answer"][:]


texts = ["007", "null", "[1]", "yes"]
mixed = read([*texts, 3])
print(f"{[*texts, 3]} -> {mixed}")
assert read(texts) == texts
assert mixed == [7, None, [1], "yes", 3]
PYTHON
