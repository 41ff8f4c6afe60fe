#!/bin/sh
# datasets 4.8.5, pyarrow 26.0.1, Python 3.11, 2026-11-28
#
# Question: answers that all are ISO dates become timestamps in `load_dataset("json")`. Do `features=` that declare
# the column as text keep them as they are?
# Guess: yes, a declared string column is read as strings.
# Seen: no. The file is parsed without the declaration, and the timestamps are cast to text behind it:
#     undeclared: 2024-01-05 00:00:00 (datetime)
#     declared:   '2024-01-05 00:00:00'
#     from_list:  '2024-01-05'
# So a column of dates is trained on as a text that stands nowhere in the file. `Dataset.from_list` keeps it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==4.8.5 pyarrow==26.0.1
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import datetime
import json
import sys
from pathlib import Path

from datasets import Dataset, Features, Value, disable_progress_bars, load_dataset

disable_progress_bars()
path = Path(sys.argv[1]) / "rows.jsonl"
path.write_text('{"chosen": "2024-01-05"}\n{"chosen": "2024-02-01"}\n')


def first(**how):
    return load_dataset("json", data_files=str(path), split="train", **how)[0]["chosen"]


undeclared, declared = first(), first(features=Features({"chosen": Value("string")}))
listed = Dataset.from_list([json.loads(line) for line in path.open()])[0]["chosen"]
print(f"undeclared: {undeclared} ({type(undeclared).__name__})\ndeclared:   {declared!r}\nfrom_list:  {listed!r}")
assert isinstance(undeclared, datetime.datetime)
assert declared == "2024-01-05 00:00:00"
assert listed == "2024-01-05"
PYTHON
