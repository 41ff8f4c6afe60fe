"""What benchmarks share: a command line, sides that take turns, equality, a table, and TRL as the peer."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.bank import Bank
from sparta_lite.training.phase import DpoSettings

Seconds = dict[str, float]


def command_line(about: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes: ``--help`` is its docstring, ``--json`` a file for the figures."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def one_thread() -> None:
    """Compute on one CPU thread, and without progress bars."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()


def require_cuda() -> None:
    if not torch.cuda.is_available():
        print("error: this needs a CUDA device, and torch sees none", file=sys.stderr)
        sys.exit(2)


def gpu_clock() -> float:
    """Seconds by the clock, once the GPU has done what it was told."""
    torch.cuda.synchronize()
    return time.perf_counter()


def medians(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> Seconds:
    """Seconds of every side: they take turns, so that whatever disturbs one disturbs the others.

    Args:
        sides: the work by its name.
        repeats: of every side.
        clock: CPU seconds, or ``gpu_clock``.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def require(equal: bool, what: str) -> None:
    if not equal:
        sys.exit(f"error: {what} differ: no times are taken from sides that do different work")


def require_near(apart: Sequence[float], limit: float, what: str) -> float:
    """The largest of ``apart``; every one has to be below ``limit``, which NaN is not."""
    require(all(each < limit for each in apart), what)
    return max(apart)


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def circumstances(device: str = "cpu") -> dict[str, Any]:
    """Where figures come from."""
    return {
        "machine": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "threads": 1,
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }


def print_circumstances(console: Console, found: Mapping[str, Any]) -> None:
    packages = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    line = f"{found['machine']}, one thread, load {found['load']:.1f}; {packages}"
    console.print(line, highlight=False, soft_wrap=True)


def print_table(console: Console, title: str, seconds: Seconds, note: str, unit: str = "CPU seconds") -> None:
    table = Table(title=f"{title}\n({note})", title_justify="left", min_width=60)
    ours = next(iter(seconds.values()))
    for column in ("variant", unit, "times ours"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / ours:.2f}")
    console.print(table)


class TorchLogprobs:
    """TRL's Triton kernel for log-probabilities in plain torch: a CPU has to interpret Triton."""

    @staticmethod
    def apply(
        hidden: Tensor, weight: Tensor, bias: None, targets: Tensor, *_: object
    ) -> tuple[Tensor | None, ...]:
        logits = F.linear(hidden, weight)
        total = logits.logsumexp(-1)
        chosen = logits.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
            best = logits.argmax(-1) == targets
        return chosen - total, entropy, None, logits.detach().mean(-1), best


def trl_trainer(
    base: Path, adapter: Path, scratch: Path, data: Dataset, settings: DpoSettings, cpu: bool = True
) -> Any:
    """TRL's trainer of one adapter on a base of its own, for one epoch of ``data`` in its order."""
    import trl.trainer.utils
    from trl import DPOTrainer

    if cpu:
        trl.trainer.utils._ChunkedLogProbFunction = TorchLogprobs
    trainer = DPOTrainer(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True),
        args=trl_config(scratch, settings, cpu=cpu),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def trl_config(scratch: Path, settings: DpoSettings, cpu: bool, bf16: bool = False) -> Any:
    """Our settings in TRL's words, a whole batch in a pass."""
    from trl import DPOConfig

    return DPOConfig(
        str(scratch),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch,
        max_grad_norm=settings.max_grad_norm,
        max_length=settings.max_length,
        train_sampling_strategy="sequential",
        bf16=bf16,
        use_cpu=cpu,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def deviation(bank: Bank, start: dict[str, Tensor], slot: int, model: Any) -> float:
    """Distance between our weights and TRL's, as a share of how far training moved them."""
    ended = dict(model.named_parameters())
    apart = torch.zeros(())
    for module, a, b in bank.modules(slot):
        for side, tensor in (("A", a), ("B", b)):
            theirs = ended[f"base_model.model.model.{module}.lora_{side}.default.weight"]
            apart = apart + (tensor - theirs.detach()).square().sum()
    moved = sum((tensor[slot] - start[name][slot]).square().sum() for name, tensor in bank.tensors())
    return float((apart / moved).sqrt())
