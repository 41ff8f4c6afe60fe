"""Rows with named columns, from a file, a directory or the dataset hub."""

from __future__ import annotations

import re
from os.path import exists, isdir  # which say no to a name that is too long, where pathlib raises
from pathlib import Path

from sparta_lite.data.filters import keep
from sparta_lite.data.library import library_splits, parquet_rows
from sparta_lite.data.row import WHOLE, Row, Splits, listed
from sparta_lite.data.tables import TEXTS, content_of, read_text_file, text_form
from sparta_lite.errors import SpartaError, shown

_PARQUET = ".parquet"
_FORMS = (*TEXTS, _PARQUET)
_NOWHERE = "no such file; give a file, or a hub dataset as owner/name"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_rows(
    path: str, subset: str | None = None, split: str | None = None, condition: str | None = None
) -> list[Row]:
    """The rows of one split.

    Args:
        path: a JSON, JSONL, CSV, TSV or Parquet file, a directory of them, or the id of a hub dataset;
            ``PATH#SPLIT`` names the split as well.
        subset: which configuration of a hub dataset.
        split: None takes the only one, or the one called ``train``.
        condition: keep rows with ``column=value`` or ``column!=value``, several joined by ``and``. Values are
            compared as text; a row without the column has the value ``null``.

    Raises:
        SpartaError: the source cannot be reached or read, has no such split, or no row is left.
    """
    name, named = parted(path)
    splits = read_splits(name, subset)
    rows = splits[split_name(name, splits, split or named)]()
    return rows if condition is None else keep(rows, condition, name)


def read_splits(path: str, subset: str | None = None) -> Splits:
    """All splits of ``path``, which names none itself; `WHOLE` is the name of an only one that has none."""
    place = Path(path)
    if isdir(path) or is_hub_id(path):
        return library_splits(path, subset)
    if subset is not None:
        raise SpartaError(f"{path}: a file has no subsets; remove the subset {shown(subset)}")
    if text_form(path) is not None:
        return read_text_file(place, path)
    if place.suffix.lower() != _PARQUET:
        raise SpartaError(f"{path}: is none of {', '.join(_FORMS)}; give a file of one of these forms")
    content_of(place)
    return {WHOLE: lambda: parquet_rows(place)}


def split_name(path: str, splits: Splits, wanted: str | None) -> str:
    """Which split of ``path`` is meant: ``wanted``, else the only one, else ``train``.

    Raises:
        SpartaError: there is none such.
    """
    if wanted is None and len(splits) == 1:
        return next(iter(splits))
    if wanted is None and "train" not in splits:
        raise SpartaError(f"{path}: has {len(splits)} splits; choose one of {listed(splits)}")
    if wanted is not None and WHOLE in splits:
        raise SpartaError(f"{path}: has no splits; leave {shown(wanted)} out")
    if wanted is not None and wanted not in splits:
        raise SpartaError(f"{path}: has no split {shown(wanted)}; it has: {listed(splits)}")
    return wanted or "train"


def parted(path: str) -> tuple[str, str | None]:
    """``PATH#SPLIT`` as path and split; a hash in the name of an existing file is no split."""
    name, hash_, split = path.rpartition("#")
    if hash_ and not exists(path):
        return name, split
    return path, None


def require_source(path: str) -> None:
    """Refuse a path, with or without its split, at which nothing stands; the hub is not asked.

    Raises:
        SpartaError: it is neither there nor the id of a hub dataset.
    """
    name, _ = parted(path)
    if not is_hub_id(name) and not exists(name):
        raise SpartaError(f"{name}: {_NOWHERE}")


def is_hub_id(path: str) -> bool:
    """Whether ``path`` stands for a dataset on the hub: ``owner/name``, and nothing of that name is here."""
    known = text_form(path) is not None or Path(path).suffix.lower() == _PARQUET
    return _HUB_ID.fullmatch(path) is not None and not known and not exists(path)
