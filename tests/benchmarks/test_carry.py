"""Portions for a machine without a network: dealt out from made-up wheels, and put together again."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python whose pip brings, or installs, what the test laid ready.
STAND_IN = """#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then
    echo "$@" >>"{folder}/asked"
    for each in "$@"; do
        [ "$before" = --dest ] && mkdir -p "$each" && cp "{folder}"/wheels/*.whl "$each"
        case $each in *.whl) cp "$each" "{folder}/installed/" ;; esac
        before=$each
    done
    exit 0
fi
cat >"{folder}/code"
shift
exec "{python}" "{folder}/code" "$@"
"""


def wheel(path: Path, files: dict[str, bytes]) -> bytes:
    name = path.name.split("-")[0]
    record = io.StringIO()
    csv.writer(record, lineterminator="\n").writerows(
        [file, "sha256=x", len(data)] for file, data in files.items()
    )
    with zipfile.ZipFile(path, "w") as made:
        for file, data in {**files, f"{name}-1.dist-info/RECORD": record.getvalue().encode()}.items():
            made.writestr(file, data)
    return path.read_bytes()


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for name in ("wheels", "installed", "benchmarks"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "benchmarks/carry.sh", tmp_path / "benchmarks")
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(folder=tmp_path, python=sys.executable))
    python.chmod(0o755)
    return tmp_path


def call(machine: Path, script: Path, *given: str, most: int = 1 << 20) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(machine / "python"), "MOST": str(most)}
    return subprocess.run(
        ["sh", str(script), *given], env=environment, capture_output=True, text=True, check=False
    )


def test_what_a_card_never_reads_is_left_out_and_pieces_come_together(machine: Path) -> None:
    wheels = machine / "wheels"
    libraries = ("cuda130", "cuda128", "cpu", "rocm72")
    files = {f"bitsandbytes/libbitsandbytes_{name}.so": name.encode() for name in libraries}
    wheel(wheels / "bitsandbytes-1-py3-none-any.whl", {**files, "bitsandbytes/__init__.py": b""})
    wheel(wheels / "unsloth-1-py3-none-any.whl", {"studio/app.js": b"x", "unsloth/__init__.py": b""})
    large = wheel(wheels / "large-1-py3-none-any.whl", {"large/data": os.urandom(5000)})

    done = call(machine, machine / "benchmarks/carry.sh", most=2000)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("needs a network")
    out = machine / ".carry"
    portions = sorted(out.iterdir())
    for portion in portions:
        carried = [each for each in portion.iterdir() if ".whl" in each.name]
        assert 0 < sum(each.stat().st_size for each in carried) <= 2000
    asked = (machine / "asked").read_text()
    assert "--python-version 3.12" in asked
    assert "--abi cp312" in asked
    assert "--no-deps" in asked

    (machine / "asked").unlink()
    done = call(machine, out / "portion-1/install.sh")
    assert done.returncode == 0, done.stderr
    installed = machine / "installed"
    assert (installed / "large-1-py3-none-any.whl").read_bytes() == large
    with zipfile.ZipFile(installed / "bitsandbytes-1-py3-none-any.whl") as made:
        kept = {f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cuda130", "cpu")}
        listed = {
            row[0] for row in csv.reader(io.StringIO(made.read("bitsandbytes-1.dist-info/RECORD").decode()))
        }
        assert listed == {*kept, "bitsandbytes/__init__.py"}
        assert set(made.namelist()) == {*listed, "bitsandbytes-1.dist-info/RECORD"}
    with zipfile.ZipFile(installed / "unsloth-1-py3-none-any.whl") as made:
        assert "studio/app.js" not in made.namelist()
    asked = (machine / "asked").read_text()
    assert all("--no-index --no-deps" in line for line in asked.splitlines())
    assert "--no-build-isolation --editable" in asked

    shutil.rmtree(portions[-1])
    done = call(machine, out / "portion-1/install.sh")
    assert done.returncode == 2
    assert f"portion-{len(portions)} of {len(portions)} is missing" in done.stderr


def test_help_and_what_it_does_not_know(machine: Path) -> None:
    done = call(machine, machine / "benchmarks/carry.sh", "--help")
    assert done.stdout.startswith("Puts together what a bare machine")
    done = call(machine, machine / "benchmarks/carry.sh", "--pyhton")
    assert (done.returncode, done.stderr) == (2, "error: --pyhton: no such option; see --help\n")


def test_every_version_is_pinned() -> None:
    """By constraints.txt or in the script, never by both."""
    text = (ROOT / "benchmarks/carry.sh").read_text()
    asked = text.split('LACKING="')[1].split('"')[0].split()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    for each in asked:
        assert (each.split("==")[0] in pinned) != ("==" in each), each
