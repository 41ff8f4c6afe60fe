"""Ours in bf16 on a card beside the peers that run there alone."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import card_peers
import torch
from peers import preferences, random_prompts, same
from side_by_side import Seconds, gpu_clock, medians, require, require_near
from tiny_tribe import PAD, Tribe

from sparta_lite.engine.base import load_base
from sparta_lite.engine.decode import generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.phase import DpoResult, DpoSettings

NEW_TOKENS = 48
PAIRS = 32
GREEDY = Sampling(temperature=0)


def in_bf16(tribe: Tribe, repeats: int, names: list[str], settings: DpoSettings) -> dict[str, Seconds]:
    """Ours in bf16 beside Unsloth and vLLM, each in a process of its own; what is missing gets a line."""
    base = load_base(tribe.path, tribe.base.decoder.device, torch.bfloat16)
    base = replace(base, stops=frozenset())
    bank = load_bank(base.decoder, [read_adapter(name, tribe.path / name) for name in names])
    prompts = random_prompts(names, 8, 16, 64, seed=1)
    texts, pairs = preferences(tribe, PAIRS)

    def generates() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, bank, prompts, GREEDY, NEW_TOKENS, 80)]

    def learns() -> DpoResult:
        bank.restore(start)
        return train(
            base.decoder, bank, pairs, settings, seed=0, iteration=0, pad=PAD, on_step=lambda _: None
        )

    start, rows = bank.snapshot(), generates()
    moved = learns().moved
    bank.restore(start)
    found = {
        "generation": medians({"ours, bf16": generates}, repeats, gpu_clock),
        "dpo": medians({"ours, bf16": learns}, repeats, gpu_clock),
    }
    task = card_peers.Task(
        base=str(tribe.path),
        adapters=tuple(names),
        prompts=tuple((prompt.adapter or "", prompt.ids) for prompt in prompts),
        new_tokens=NEW_TOKENS,
        texts=tuple(texts),
        dpo=asdict(settings),
        pad=PAD,
        repeats=repeats,
    )
    for peer in card_peers.PEERS:
        torch.cuda.empty_cache()
        answer = card_peers.run(peer, task)
        if "missing" in answer:
            print(f"{peer}: left out, {answer['missing']}", file=sys.stderr)
            continue
        if "rows" in answer:
            first = [row[:1] for row in rows], [row[:1] for row in answer["rows"]]
            require(same(tribe, *first), f"first tokens of ours and of {peer}")
        else:
            apart = [abs(far / moved[name] - 1) for name, far in zip(names, answer["moved"], strict=True)]
            require_near(apart, 0.1, f"how far our DPO and {peer} move the adapters")
        found["generation" if "rows" in answer else "dpo"][peer] = answer["seconds"]
    return found
