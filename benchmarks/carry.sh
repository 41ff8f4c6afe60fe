#!/bin/sh
# Puts together what a bare machine with a card and no network lacks, from wheels, in portions, and a script that
# installs it there:
#
#     benchmarks/carry.sh                       # into .carry/: portion-1, portion-2, ... of at most 64 MiB each
#     benchmarks/carry.sh --python 3.11 DIR     # for another Python, into another folder
#     sh .carry/portion-1/install.sh            # there, in the checkout, once all portions have arrived
#
# The machine is taken to have torch for CUDA 13, triton, transformers, accelerate, safetensors, pandas, pyarrow
# and pytest: see LACKING for the rest. Versions are those of constraints.txt, and of LACKING where it has none.
# It needs a network, about 100 MB of downloads, 250 MB of disk while it works, and pip.
set -eu

# name, or name==version where constraints.txt has none.
LACKING="annotated-types antlr4-python3-runtime bitsandbytes datasets dill latex2sympy2-extended math-verify
multiprocess peft plotly pydantic pydantic-core trl typing-extensions typing-inspection setuptools==81.0.0
cut-cross-entropy==25.1.1 docstring-parser==0.18.0 msgspec==0.22.0 nest-asyncio==1.6.0 structlog==26.1.0
torchao==0.18.0 typeguard==4.6.1 tyro==1.0.17 unsloth unsloth-zoo"
MOST=${MOST:-$((64 * 1024 * 1024 - 65536))} # bytes of a portion, the scripts in it aside

version=3.12 out=
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) sed -n '2,/^set -eu/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    --python) version=$2; shift 2 ;;
    -*) echo "error: $1: no such option; see --help" >&2; exit 2 ;;
    *) out=$1; shift ;;
    esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
out=${out:-$root/.carry}
python=${PYTHON:-python3}
echo "needs a network, about 100 MB of downloads and 250 MB of disk; wheels for Python $version into $out"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
platforms=$(for minor in 5 12 17 24 26 27 28 31 34 35; do printf -- '--platform manylinux_2_%s_x86_64 ' $minor; done)
tag=cp$(echo "$version" | tr -d .)
# shellcheck disable=SC2086
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
    --python-version "$version" --implementation cp --abi "$tag" --abi abi3 --abi none \
    $platforms --platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 \
    --constraint "$root/constraints.txt" --dest "$scratch/whole" $LACKING

rm -rf "$out"
mkdir -p "$out"
"$python" - "$scratch/whole" "$out" "$MOST" <<'PYTHON'
"""Leaves out of the wheels what a card for CUDA 13 never reads, and deals them out."""

import csv, io, re, sys, zipfile
from pathlib import Path

whole, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
UNREAD = {  # bitsandbytes for other cards; Unsloth's application
    "bitsandbytes": re.compile(r"bitsandbytes/libbitsandbytes_(?!cpu|cuda130).*\.so$"),
    "unsloth": re.compile(r"studio/"),
}


def thinned(wheel: Path) -> bytes:
    """The wheel, and its list of files, without what is never read."""
    unread = UNREAD.get(wheel.name.partition("-")[0])
    if unread is None:
        return wheel.read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if unread.match(item.filename):
                continue
            data = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                rows = csv.reader(io.StringIO(data.decode()))
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(row for row in rows if row and not unread.match(row[0]))
                data = text.getvalue().encode()
            new.writestr(item, data)
    return made.getvalue()


pieces = []
for wheel in sorted(whole.glob("*.whl")):
    data = thinned(wheel)
    # What is larger than a portion goes in pieces, which install.sh puts together.
    count = -(-len(data) // most)
    for number in range(count):
        name = wheel.name if count == 1 else f"{wheel.name}.{number:02}"
        pieces.append((name, data[number * most : (number + 1) * most]))
portions: list[list[tuple[str, bytes]]] = []
for piece in sorted(pieces, key=lambda piece: -len(piece[1])):
    room = (portion for portion in portions if sum(len(data) for _, data in portion) + len(piece[1]) <= most)
    portion = next(room, None)
    if portion is None:
        portions.append(portion := [])
    portion.append(piece)
for number, portion in enumerate(portions, 1):
    folder = out / f"portion-{number}"
    folder.mkdir()
    for name, data in portion:
        (folder / name).write_bytes(data)
    size = sum(len(data) for _, data in portion)
    print(f"{folder}: {len(portion)} files, {size / 2**20:.1f} MiB")
(out / "portion-1" / "portions").write_text(f"{len(portions)}\n")
PYTHON

cat >"$out/portion-1/install.sh" <<'INSTALL'
#!/bin/sh
# Installs what carry.sh put together and this checkout, without a network. PYTHON=python3 says into which Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
count=$(cat "$here/portions")
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
echo "needs: Python with pip, torch and its companions; 200 MB of disk; no network"
number=1
while [ "$number" -le "$count" ]; do
    folder=$here/../portion-$number
    [ -d "$folder" ] || { echo "error: portion-$number of $count is missing; bring it, too" >&2; exit 2; }
    for file in "$folder"/*.whl "$folder"/*.whl.[0-9][0-9]; do
        [ -e "$file" ] || continue
        name=$(basename "$file")
        case $name in
        *.whl) cp "$file" "$wheels/" ;;
        *.00) cat "$here"/../portion-*/"${name%.00}".[0-9][0-9] >"$wheels/${name%.00}" ;;
        esac
    done
    number=$((number + 1))
done
pip="$python -m pip --disable-pip-version-check install --quiet --no-index --no-deps"
$pip --upgrade "$wheels"/*.whl
# Its metadata is read: what is installed, and in which version.
$pip --no-build-isolation --editable "$here/../.."
"$python" - <<'CHECK'
from importlib.metadata import PackageNotFoundError, requires, version

from pip._vendor.packaging.requirements import Requirement

wanted, seen, missing = [Requirement("sparta-lite")], set(), set()
while wanted:
    need = wanted.pop()
    try:
        if not need.specifier.contains(version(need.name), prereleases=True):
            missing.add(f"{need} (it is {version(need.name)})")
    except PackageNotFoundError:
        missing.add(need.name.replace("_", "-"))
        continue
    if need.name in seen:
        continue
    seen.add(need.name)
    asked = map(Requirement, requires(need.name) or ())
    wanted += [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
print(f"sparta-lite {version('sparta-lite')} is installed; lacking: {', '.join(sorted(missing)) or 'nothing'}")
CHECK
INSTALL
echo "there: sh $(basename "$out")/portion-1/install.sh"
