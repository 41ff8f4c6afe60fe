"""Rows that the library ``datasets`` finds: directories, the hub, Parquet. It runs no code of theirs.

Files of text that it finds are read by `sparta_lite.data.tables`, so that a file gives the same rows alone,
in a directory and on the hub.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.data.row import WHOLE, Row, Splits, cut, listed, numbered
from sparta_lite.data.tables import read_text_file, text_form
from sparta_lite.errors import SpartaError, shown

_SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` leaves in a directory; ``load_dataset`` takes its state for a file of rows."""

_TEXT_BUILDERS = ("json", "csv")
_ROWS_ALONE = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""Endings of files that hold rows and nothing else; what a .json is for nobody knows."""

_BY_NAME = ("name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter")
"""What a builder's settings may say and the files be read here; anything else is for the library to obey."""


@dataclass(frozen=True)
class _Found:
    """A file of text."""

    name: str
    """Where it is from: a path or an address."""
    file: Path


def library_splits(name: str, subset: str | None) -> Splits:
    """All splits of a directory or a hub dataset.

    Raises:
        SpartaError: it cannot be reached or read.
    """
    place = Path(name)
    if not place.is_dir():
        return _hub(name, subset)
    library = _library()
    with _explained(name):
        if any((place / state).is_file() for state in _SAVED):
            loaded = library.load_from_disk(name)
            return _table_splits(loaded if isinstance(loaded, dict) else {WHOLE: loaded})
        builder = library.load_dataset_builder(name, name=subset)
        if subset is None:
            _require_one_form(place, builder)
        texts = _texts(builder)
        return _text_splits(texts) if texts else _table_splits(library.load_dataset(name, name=subset))


def parquet_rows(file: Path) -> list[Row]:
    """The rows of a Parquet file.

    Raises:
        SpartaError: it is none.
    """
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import read_table  # type: ignore[import-untyped]

    try:
        return numbered(_library().Dataset(read_table(file)))
    except (ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise SpartaError(
            f"{file}: is no Parquet file that can be read ({cut(str(error), 100)}); write it anew"
        ) from error


def _library() -> Any:
    import datasets  # type: ignore[import-untyped]

    return datasets


def _hub(name: str, subset: str | None) -> Splits:
    """A hub dataset: its files where they are text, which the library may fail to make one table of."""
    library = _library()
    with _explained(name):
        try:
            loaded = library.load_dataset(name, name=subset)
        except library.exceptions.DatasetGenerationError:
            with contextlib.suppress(Exception):  # the failure before tells more
                if texts := _texts(library.load_dataset_builder(name, name=subset)):
                    return _text_splits(texts)
            raise
        if any(loaded[split].info.builder_name in _TEXT_BUILDERS for split in loaded):
            texts = _texts(library.load_dataset_builder(name, name=subset))
            if texts:
                return _text_splits(texts)
        return _table_splits(loaded)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever the library raises, the user can only mend name, subset or line."""
    try:
        yield
    except SpartaError:
        raise
    except Exception as error:
        raise SpartaError(f"{name}: {_cause(error)}") from error


def _require_one_form(place: Path, builder: Any) -> None:
    """Refuse a directory of several forms, of which the library would take the most frequent alone."""
    taken = {Path(str(each)).name for files in (builder.config.data_files or {}).values() for each in files}
    if (place / "README.md").is_file() or not taken:  # which may say what belongs to it
        return
    for file in sorted(place.rglob("*")):
        if file.suffix.lower() in _ROWS_ALONE and file.name not in taken and not file.name.startswith("."):
            raise SpartaError(
                f"{place}: {shown(file.name)} would be left out beside {shown(min(taken))}; give a directory "
                "of one form, or one file"
            )


def _table_splits(loaded: Any) -> Splits:
    def rows_of(split: Any) -> Callable[[], list[Row]]:
        return lambda: numbered(loaded[split])

    return {str(split): rows_of(split) for split in loaded}


def _texts(builder: Any) -> dict[str, list[_Found]] | None:
    """The files of every split; None where they are no text, or to be read in a way of their own."""
    if builder.info.builder_name not in _TEXT_BUILDERS or not _usual(builder.config):
        return None
    manager = _library().DownloadManager()
    found = {
        str(split): [_Found(str(each), Path(manager.download(str(each)))) for each in files]
        for split, files in builder.config.data_files.items()
    }
    return found if all(text_form(each.name) for files in found.values() for each in files) else None


def _usual(config: Any) -> bool:
    usual = type(config)()
    return all(
        field.name in _BY_NAME or getattr(config, field.name) == getattr(usual, field.name)
        for field in dataclasses.fields(config)
    ) and getattr(config, "sep", ",") in (",", "\t")


def _text_splits(texts: dict[str, list[_Found]]) -> Splits:
    if len(texts) == 1 and len(files := next(iter(texts.values()))) == 1:
        inner = read_text_file(files[0].file, files[0].name)
        return inner if tuple(inner) != (WHOLE,) else {next(iter(texts)): inner[WHOLE]}

    def rows_of(files: Sequence[_Found]) -> Callable[[], list[Row]]:
        return lambda: [row for each in files for row in _only(each, len(files) > 1)]

    return {split: rows_of(files) for split, files in texts.items()}


def _only(found: _Found, among_others: bool) -> list[Row]:
    """The rows of a file that is one of several."""
    splits = read_text_file(found.file, found.name)
    if len(splits) > 1:
        raise SpartaError(
            f"{found.name}: has splits of its own ({listed(splits)}); give that file itself as the path"
        )
    rows = next(iter(splits.values()))()
    short = Path(found.name).name
    return [Row(f"{short} {row.place}", row.value) for row in rows] if among_others else rows


def _cause(error: Exception) -> str:
    """One line on why ``datasets`` failed, and what to do instead."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ConnectionError, TimeoutError)) or "Couldn't reach" in said:
        return "the dataset hub cannot be reached; check the connection, or set the path to a local copy"
    if type(error).__name__ == "DatasetNotFoundError":
        return "no such dataset on the hub, or it may not be read; check the name, or run `hf auth login`"
    if "script" in said:
        return "comes as a program, which is never run; choose a dataset in JSON, CSV or Parquet"
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"needs another subset ({cut(said, 150)}); set data.subset"
    return f"cannot be read ({cut(said, 120)}); check the name, or set the path to a local file"
