"""``sparta-lite doctor``: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import dataclasses
import json as js
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.engine.gguf_base import unpacked

Status = Literal["OK", "missing", "broken"]

_HUB = "https://huggingface.co"
_PATIENCE = 3.0  # seconds for the hub to answer
_FLA = "flash-linear-attention"
_RUN_SPACE = 2 * 10**9  # bytes: a run's adapters, responses and judgments
_GPU_EXTRA = "pip install 'sparta-lite[gpu]'"


@dataclass(frozen=True)
class Finding:
    component: str
    status: Status
    detail: str
    mend: str = ""
    """The command, or what else to do."""
    needed: bool = False
    """The default run cannot do without it."""


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Look at every component that a run may need; exit code 1 where the default run could not work."""
    quiet_libraries()
    failed = False
    for name, look in _LOOKS.items():
        finding = _guarded(name, look)
        failed = failed or (finding.needed and finding.status != "OK")
        typer.echo(js.dumps(dataclasses.asdict(finding)) if json else _line(finding))
    if failed:
        raise typer.Exit(1)


def _line(finding: Finding) -> str:
    mend = f"; {finding.mend}" if finding.mend and finding.status != "OK" else ""
    width = max(map(len, _LOOKS))
    return f"{finding.component:<{width}} {finding.status:<8} {finding.detail}{mend}"


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # a broken installation raises anything; looking must not end the looking
        return Finding(name, "broken", _said(error), "reinstall it", needed=name in _NEEDED)


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:100] if lines else type(error).__name__


def _python() -> Finding:
    fine = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        "python",
        "OK" if fine else "broken",
        f"{platform.python_version()} in {sys.prefix}",
        "install Python 3.10 to 3.13",
        needed=True,
    )


def _torch() -> Finding:
    found = _imported("torch", "torch", "pip install 'torch>=2.9'", needed=True)
    if found.status != "OK":
        return found
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    return dataclasses.replace(found, detail=f"{found.detail}, built {built}")


def _device() -> Finding:
    import psutil
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        return Finding(
            "device",
            "OK",
            f"{card.name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, compute capability "
            f"{card.major}.{card.minor}",
        )
    memory = psutil.virtual_memory()
    processor = (
        f"CPU, {os.cpu_count()} cores, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    )
    if not Path("/proc/driver/nvidia/version").exists():
        return Finding("device", "OK", f"{processor}; no GPU: the pocket tribe needs none")
    return Finding(
        "device",
        "broken",
        f"{processor}; there is an NVIDIA driver, but torch sees no CUDA device",
        "install a torch that is built for it: https://pytorch.org/get-started/locally",
    )


def _bitsandbytes() -> Finding:
    return _imported("bitsandbytes", "bitsandbytes", "pip install 'bitsandbytes>=0.49'", "4-bit bases")


def _flash() -> Finding:
    mend = "pip install flash-attn --no-build-isolation"
    if not _has_gpu():
        return _listed("flash-attn", "flash-attn", mend, "needs a GPU")
    return _imported("flash-attn", "flash_attn", mend, "torch's own attention is used")


def _fla() -> Finding:
    mend = "pip install 'sparta-lite[fla]'"
    what_for = "for bases such as Qwen3.5, else torch computes their delta rule"
    if not _has_gpu():
        return _listed(_FLA, _FLA, mend, f"{what_for}; needs a GPU")
    found = _imported(_FLA, "fla", mend, what_for)
    if found.status != "OK":
        return found
    import torch

    from sparta_lite.kernels.choice import choose_delta

    kind, why = choose_delta(torch.device("cuda"), torch.bfloat16)
    status: Status = "OK" if kind == "fla" else "broken"
    return dataclasses.replace(found, status=status, detail=f"{found.detail}, delta rule: {kind} ({why})")


def _unsloth() -> Finding:
    # Without an accelerator its import raises NotImplementedError, with one it patches what we use.
    return _listed(
        "unsloth", "unsloth", _GPU_EXTRA, "the trainer 'tribe' is used" if _has_gpu() else "needs a GPU"
    )


def _triton() -> Finding:
    mend = "pip install 'triton>=3.4'"
    found = _imported("triton", "triton", mend, "without it torch computes; trl and unsloth need it")
    if found.status != "OK":
        return found
    import torch

    from sparta_lite.engine.device import choose_device, keep_compiled
    from sparta_lite.kernels.choice import choose_kernels, failure

    device = choose_device("auto")
    keep_compiled(device)
    kind, why = choose_kernels(device, torch.bfloat16)
    broken = failure() is not None
    return dataclasses.replace(
        found, status="broken" if broken else "OK", detail=f"{found.detail}, kernels: {kind} ({why})"
    )


def _math_verify() -> Finding:
    return _imported("math-verify", "math_verify", "pip install math-verify", "marks MATH and GSM8K")


def _harness() -> Finding:
    return _listed("lm-eval", "lm-eval", "pip install 'sparta-lite[eval]'", "for `eval --harness`")


def _gguf() -> Finding:
    found = _listed(
        "gguf",
        "gguf",
        "pip install 'sparta-lite[gguf]'",
        "for bases in GGUF form and `export --to gguf-lora`",
    )
    places = unpacked()
    if not places:
        return found
    size = sum(file.stat().st_size for place in places for file in place.iterdir())
    kept = f"{len(places)} unpacked in {places[0].parent}, {size / 1e9:.1f} GB"
    return dataclasses.replace(found, detail=f"{found.detail}; {kept}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= _RUN_SPACE
    writable = os.access(Path.cwd(), os.W_OK)
    detail = f"{free / 1e9:.1f} GB free in {Path.cwd()}" + ("" if writable else ", which cannot be written")
    mend = "free some space, or start in another directory"
    return Finding("disk", "OK" if enough and writable else "broken", detail, mend, needed=not writable)


def _hub() -> Finding:
    import urllib.error
    import urllib.request

    home = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    from huggingface_hub import get_token

    token = "a token" if get_token() else "no token (`hf auth login` for private or gated models)"
    where = os.environ.get("HF_ENDPOINT", _HUB)
    about = f"cache {home}, {token}"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return Finding("hub", "missing", f"switched off by HF_HUB_OFFLINE; {about}", "unset HF_HUB_OFFLINE")
    try:
        with urllib.request.urlopen(urllib.request.Request(where, method="HEAD"), timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        mend = "give local directories, or check the network, HTTPS_PROXY and HF_ENDPOINT"
        return Finding("hub", "missing", f"{where} cannot be reached ({reason}); {about}", mend)
    return Finding("hub", "OK", f"{where} answers; {about}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _imported(component: str, module: str, mend: str, what_for: str = "", needed: bool = False) -> Finding:
    """By importing it."""
    listed = _listed(component, component, mend, what_for, needed)
    if listed.status != "OK":
        return listed
    try:
        import_module(module)
    except Exception as error:
        return Finding(component, "broken", f"{listed.detail}, {_said(error)}", mend, needed)
    return dataclasses.replace(listed, detail=listed.detail.removesuffix(f" ({what_for})"))


def _listed(component: str, package: str, mend: str, what_for: str = "", needed: bool = False) -> Finding:
    """By the list of installed packages, without importing it."""
    note = f" ({what_for})" if what_for else ""
    try:
        return Finding(component, "OK", f"{metadata.version(package)}{note}", mend, needed)
    except metadata.PackageNotFoundError:
        return Finding(component, "missing", f"not installed{note}", mend, needed)


_LOOKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "torch": _torch,
    "device": _device,
    "bitsandbytes": _bitsandbytes,
    "flash-attn": _flash,
    _FLA: _fla,
    "unsloth": _unsloth,
    "triton": _triton,
    "math-verify": _math_verify,
    "lm-eval": _harness,
    "gguf": _gguf,
    "disk": _disk,
    "hub": _hub,
}
_NEEDED = ("python", "torch", "disk")
