#!/bin/sh
# datasets 4.8.5, pyarrow 26.0.1, Python 3.11, 2026-11-28
#
# Question: a directory holds two CSV files and one of JSON lines, all with the same column. What does
# `load_dataset(directory)` give?
# Guess: the rows of all three, or an error.
# Seen: the rows of the most frequent form, without a word; the other file is as if it were not there:
#     ['from b.csv', 'from c.csv']
# An error comes only where the forms differ between splits.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==4.8.5 pyarrow==26.0.1
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
place = Path(sys.argv[1]) / "data"
place.mkdir()
(place / "a.jsonl").write_text('{"q": "from a.jsonl"}\n')
for name in ("b.csv", "c.csv"):
    (place / name).write_text(f"q\nfrom {name}\n")
rows = load_dataset(str(place), split="train")["q"][:]
print(rows)
assert rows == ["from b.csv", "from c.csv"]
PYTHON
