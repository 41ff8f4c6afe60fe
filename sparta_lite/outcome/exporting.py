"""One adapter of a run, taken out of it: as it is, merged, for llama.cpp, or onto the hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from sparta_lite.campaign.settings import POCKET
from sparta_lite.campaign.sources import base_source
from sparta_lite.engine.hub import CONFIG_FILE
from sparta_lite.engine.peft_io import copy_weights, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, sync, uninterrupted, write_json, write_text
from sparta_lite.outcome.card import model_card
from sparta_lite.outcome.finished import Finished

Form = Literal["peft", "merged", "gguf-lora"]


def export(finished: Finished, name: str, form: Form, out: Path, base: str | None = None) -> None:
    """Write an adapter and its model card into the new directory ``out``, which appears whole.

    Args:
        finished: the run.
        name: of the adapter.
        form: ``peft`` is the adapter itself; ``merged`` a whole model; ``gguf-lora`` a file for llama.cpp.
        out: must not exist.
        base: the unquantised base to merge into, a directory or hub id; None: the run's.

    Raises:
        SpartaError: ``out`` exists, or the adapter cannot be had in that form.
    """
    if out.exists():
        raise SpartaError(f"{out}: exists already; give --out a directory that does not")
    source = base or base_source(finished.config.base)
    place = finished.place(name)
    partial = out.with_name(f".{out.name}.partial")
    with clear_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            if form == "peft":
                _copy(finished, name, place, partial)
            elif form == "merged":
                from sparta_lite.engine.merging import merge_adapter

                merge_adapter(source, place, partial, finished.config.trust_remote_code)
            else:
                _write_gguf(source, name, place, partial / f"{name}.gguf")
            # PEFT and transformers write cards of their own, without figures.
            merged_into = source if form == "merged" else None
            write_text(partial / "README.md", model_card(finished, name, form, merged_into))
            with uninterrupted():
                partial.rename(out)
                sync(out.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def export_to_hub(finished: Finished, name: str, repository: str, public: bool = False) -> str:
    """Put an adapter in PEFT's form, with its model card, into a new repository on the hub.

    Returns:
        Where it stands now.

    Raises:
        SpartaError: the repository exists, or the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        export(finished, name, "peft", folder)
        try:
            return upload(folder, repository, private=not public)
        except Exception as error:  # the client raises errors of its own, of httpx, and of the system
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise SpartaError(
                f"{repository}: the hub does not take it ({reason}); check the connection, `hf auth whoami`, "
                "and that no repository has this name yet"
            ) from error


def upload(folder: Path, repository: str, private: bool) -> str:
    """Make a repository on the hub and put the files of ``folder`` into it; gives its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    address = api.create_repo(repository, private=private)
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Adapter and model card")
    return str(address)


def _copy(finished: Finished, name: str, place: Path, out: Path) -> None:
    config: dict[str, Any] = dict(read_adapter(name, place).config)
    if finished.config.base != POCKET:
        config["base_model_name_or_path"] = finished.config.base
    copy_weights(place, out)
    write_json(out / CONFIG_FILE, config)


def _write_gguf(source: str, name: str, place: Path, out: Path) -> None:
    try:
        from sparta_lite.engine.gguf_lora import write_gguf_lora
    except ImportError as error:
        raise SpartaError("the package gguf is missing; install it with `pip install gguf`") from error
    write_gguf_lora(source, name, place, out)
