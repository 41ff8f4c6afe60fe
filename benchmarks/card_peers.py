"""Unsloth and vLLM on the tribe of ``engine.py``, each in a process of its own: they patch classes or own
the card.

    python benchmarks/engine.py --device cuda     # starts them where they can be imported

They compute in bfloat16, and so does our engine beside them. Loading is left out of every time, and so is one
run that compiles whatever is compiled. **Not yet run anywhere.**
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparta_lite.files import read_json, write_json


@dataclass(frozen=True)
class Task:
    """What a peer is asked: a process of its own gets it as JSON."""

    base: str
    """A directory with the base and, under their names, its adapters."""
    adapters: tuple[str, ...]
    prompts: tuple[tuple[str, tuple[int, ...]], ...]
    """Adapter and tokens."""
    new_tokens: int
    texts: tuple[dict[str, str], ...]
    """Preference pairs, in the order that they are learned from."""
    dpo: dict[str, Any]
    """``DpoSettings``"""
    pad: int
    repeats: int


def run(peer: str, task: Task) -> dict[str, Any]:
    """One of ``PEERS`` in a process of its own.

    Returns:
        ``seconds``, and ``rows`` of tokens or, where it learns, how far every adapter ``moved``; or
        ``missing``, why it did not run.
    """
    file = Path(task.base) / "task.json"
    write_json(file, asdict(task))
    done = subprocess.run(
        [sys.executable, __file__, peer, str(file)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"missing": f"it ended with code {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def vllm_generate(task: dict[str, Any]) -> dict[str, Any]:
    """All rows of all adapters at once, as vLLM's multi-LoRA takes them."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

    model = LLM(
        task["base"],
        dtype="bfloat16",
        enable_lora=True,
        max_loras=len(task["adapters"]),
        max_lora_rank=8,
        max_model_len=1024,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=False,
    )
    loras = {
        name: LoRARequest(name, 1 + number, f"{task['base']}/{name}")
        for number, name in enumerate(task["adapters"])
    }
    prompts = [{"prompt_token_ids": ids} for _, ids in task["prompts"]]
    own = [loras[name] for name, _ in task["prompts"]]
    sampling = SamplingParams(temperature=0.0, max_tokens=task["new_tokens"], ignore_eos=True)

    def generate() -> list[list[int]]:
        found = model.generate(prompts, sampling, lora_request=own, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in found]

    return {"rows": generate(), "seconds": _median(generate, task["repeats"])}


def unsloth_generate(task: dict[str, Any]) -> dict[str, Any]:
    """Adapter after adapter, static batches padded on the left."""
    fast, model = _unsloth(task, task["adapters"][0])
    import torch

    for name in task["adapters"]:
        model.load_adapter(f"{task['base']}/{name}", adapter_name=name)
    fast.for_inference(model)

    def generate() -> list[list[int]]:
        rows: list[list[int]] = []
        for name in task["adapters"]:
            model.set_adapter(name)
            own = [ids for adapter, ids in task["prompts"] if adapter == name]
            longest = max(map(len, own))
            ids = torch.tensor([[task["pad"]] * (longest - len(each)) + each for each in own], device="cuda")
            mask = torch.tensor(
                [[0] * (longest - len(each)) + [1] * len(each) for each in own], device="cuda"
            )
            limit = {"max_new_tokens": task["new_tokens"], "do_sample": False, "eos_token_id": None}
            out = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=task["pad"], **limit)
            rows += out[:, longest:].tolist()
        return rows

    return {"rows": generate(), "seconds": _median(generate, task["repeats"])}


def unsloth_dpo(task: dict[str, Any]) -> dict[str, Any]:
    """TRL's trainer on Unsloth's model, one adapter after another."""
    seconds, moved = 0.0, []
    for number, name in enumerate((task["adapters"][0], *task["adapters"])):
        fast, model = _unsloth(task, name)
        import torch
        from datasets import Dataset  # type: ignore[import-untyped]
        from side_by_side import trl_config
        from transformers import AutoTokenizer
        from trl import DPOTrainer

        from sparta_lite.training.phase import DpoSettings

        fast.for_training(model)
        settings, scratch = DpoSettings(**task["dpo"]), Path(task["base"]) / "unsloth"
        learned = [each for each in model.parameters() if each.requires_grad]
        begun = [each.detach().clone() for each in learned]
        trainer = DPOTrainer(
            model,
            args=trl_config(scratch, settings, cpu=False, bf16=True),
            train_dataset=Dataset.from_list(task["texts"]),
            processing_class=AutoTokenizer.from_pretrained(task["base"]),
        )
        torch.cuda.synchronize()
        start = time.perf_counter()
        trainer.train()
        torch.cuda.synchronize()
        if number:  # the first one compiles
            seconds += time.perf_counter() - start
            squares = [(each - old).float().square().sum() for each, old in zip(learned, begun, strict=True)]
            moved.append(float(torch.stack(squares).sum().sqrt()))
    return {"seconds": seconds, "moved": moved}


def _unsloth(task: dict[str, Any], adapter: str) -> tuple[Any, Any]:
    """Unsloth's class of models, and the base with one adapter. It has to be imported before TRL is."""
    import torch

    from sparta_lite.training.unsloth import fast_language_model

    fast = fast_language_model()
    model, _ = fast.from_pretrained(
        f"{task['base']}/{adapter}",
        max_seq_length=1024,
        dtype=torch.bfloat16,
        load_in_4bit=False,
        use_exact_model_name=True,
        fix_tokenizer=False,
        use_gradient_checkpointing=False,
        local_files_only=True,
    )
    return fast, model


def _median(work: Callable[[], object], repeats: int) -> float:
    """Seconds by the clock; the tokens that ``work`` gives are on the host, so the card is done."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


PEERS = {
    "vLLM's multi-LoRA": vllm_generate,
    "Unsloth's generate": unsloth_generate,
    "Unsloth's DPO": unsloth_dpo,
}


def main() -> None:
    """One peer's answer as the last line of the standard output; started by ``run``."""
    peer, file = sys.argv[1:]
    try:
        answer = PEERS[peer](read_json(Path(file)))
    except Exception as error:  # not installed, or made for another torch: anything can come out of it
        line = (str(error).strip().splitlines() or [""])[0]
        answer = {"missing": f"{type(error).__name__}: {line}"}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main()
