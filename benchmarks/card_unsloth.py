"""DPO of one adapter through Unsloth, beside our own over the same base, in a process of its own.

``first_minutes.py`` starts it with the folder of a 4-bit checkpoint: Unsloth changes the process that it is
in, and the base has to come through its loader. Where there is no card TRL stands in for it.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def learn(folder: Path) -> dict[str, Any]:
    """Seconds of loading and of an update, and how far both move the adapter.

    Args:
        folder: with a checkpoint, and ``task.json``: the ``Sizes``.
    """
    import torch

    from sparta_lite.engine.base import load_base
    from sparta_lite.files import read_json
    from sparta_lite.training.unsloth import fast_language_model, load_model, wrap_with_unsloth

    cuda = torch.cuda.is_available()
    start = time.perf_counter()
    if cuda:
        fast_language_model()  # before TRL is imported
    imported = time.perf_counter()
    from card_base import make_bank
    from card_steps import dpo_pairs, dpo_settings
    from card_tools import Sizes

    from sparta_lite.training.dpo import train
    from sparta_lite.training.sequential import train_in_turn
    from sparta_lite.training.view import wrap_with_peft

    sizes = Sizes(**read_json(folder / "task.json"))
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    base = load_base(folder, device, dtype, "nf4", loader=load_model if cuda else None)
    loaded = time.perf_counter()
    bank = make_bank(base, 1, sizes.rank)
    pairs, settings = dpo_pairs(sizes, base.decoder.head.shape[0]), dpo_settings(sizes)
    marks: list[float] = []

    def stepped(_: object) -> None:
        if cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    more: dict[str, Any] = {"seed": 0, "iteration": 0, "pad": 0, "on_step": stepped}
    wrap = wrap_with_unsloth if cuda else wrap_with_peft

    def of_trainer() -> Any:
        return train_in_turn(base.model, base.tokenizer, bank, pairs, settings, wrap=wrap, **more)

    found: dict[str, Any] = {
        "trainer": "unsloth" if cuda else "trl",
        "import_seconds": imported - start,
        "load_seconds": loaded - imported,
    }
    before = bank.snapshot()
    for name, run in (
        (found["trainer"], of_trainer),
        ("tribe", lambda: train(base.decoder, bank, pairs, settings, **more)),
    ):
        marks.clear()
        begun = time.perf_counter()
        result = run()
        updates = [after - earlier for earlier, after in pairwise(marks)]
        found[name] = {
            "seconds": time.perf_counter() - begun,
            "update_ms": 1e3 * min(updates),
            "adapter_pairs_a_second": sizes.pairs / min(updates),
            "moved": next(iter(result.moved.values())),
        }
        bank.restore(before)
    return found


def main() -> None:
    """What was found as the last line of the standard output."""
    print(f"\n{json.dumps(learn(Path(sys.argv[1])))}")


if __name__ == "__main__":
    main()
