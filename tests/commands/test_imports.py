"""Commands that only look at files, and help, start without the libraries that compute."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import contextlib, io, json, sys
from sparta_lite.commands.app import app

def loaded(*line):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app(line, prog_name="sparta-lite")
        except SystemExit:
            pass
    heavy = {"numpy", "torch", "transformers", "peft", "bitsandbytes", "sparta_lite.campaign.settings"}
    return sorted(heavy & set(sys.modules))

lines = (["list"], ["report", "--help"], ["watch", "--help"], ["--help"], ["plan"])
print(json.dumps([loaded(*line) for line in lines]))
"""


def test_libraries_are_imported_by_the_command_that_needs_them() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    listing, report, watching, help_, planning = json.loads(done.stdout)
    assert listing == report == []
    assert set(watching + help_) <= {"sparta_lite.campaign.settings"}
    assert not {"transformers", "peft", "bitsandbytes"} & set(planning)
