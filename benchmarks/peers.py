"""What our engine and its peers are asked, PEFT and transformers as they generate, and what is the same."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from side_by_side import gpu_clock
from tiny_tribe import PAD, Tribe
from transformers import ContinuousBatchingConfig, GenerationConfig

from sparta_lite.engine.decode import Prompt
from sparta_lite.randomness import generator
from sparta_lite.training.packing import TokenizedPair

BLOCK = 32  # positions in one block of transformers' paged cache; of 16 to 128 none is faster


def random_prompts(names: list[str], each: int, shortest: int, longest: int, seed: int) -> list[Prompt]:
    rng = random.Random(seed)
    return [
        Prompt(name, tuple(rng.randrange(256) for _ in range(rng.randint(shortest, longest))))
        for name in names
        for _ in range(each)
    ]


def preferences(tribe: Tribe, count: int) -> tuple[list[dict[str, str]], list[TokenizedPair]]:
    """Random texts in the order that we learn from them in, and as tokens, in their own order."""
    rng = random.Random(4)
    letters = [chr(code) for code in range(97, 123)]
    texts = [
        {
            "prompt": "".join(rng.choices(letters, k=rng.randint(16, 64))),
            "chosen": "".join(rng.choices(letters, k=rng.randint(16, 64))) + "<|im_end|>",
            "rejected": "".join(rng.choices(letters, k=rng.randint(16, 64))) + "<|im_end|>",
        }
        for _ in range(count)
    ]
    tokenize = tribe.base.tokenizer
    pairs = [TokenizedPair(*(tuple(tokenize(text)["input_ids"]) for text in each.values())) for each in texts]
    order = list(range(count))
    generator(0, "dpo", 0, 0).shuffle(order)  # our own order of the first epoch
    return [texts[index] for index in order], pairs


def peft_generate(tribe: Tribe, prompts: list[Prompt], new_tokens: int, **options: Any) -> list[list[int]]:
    """One static batch, padded on the left, as PEFT and transformers run it."""
    longest = max(len(prompt.ids) for prompt in prompts)
    padding = [longest - len(prompt.ids) for prompt in prompts]
    ids = [[PAD] * pad + list(prompt.ids) for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    options = {"do_sample": False, "eos_token_id": None} | options
    with torch.no_grad():
        out = tribe.peft.generate(
            input_ids=torch.tensor(ids, device=tribe.peft.device),
            attention_mask=torch.tensor(mask, device=tribe.peft.device),
            max_new_tokens=new_tokens,
            **options,
        )
    return [row[longest:].tolist() for row in out]


def peft_loop(tribe: Tribe, prompts: list[Prompt], new_tokens: int, **options: Any) -> list[list[int]]:
    """Adapter after adapter through ``set_adapter``, all prompts of one adapter in one batch."""
    rows = []
    for name in dict.fromkeys(prompt.adapter for prompt in prompts):
        tribe.peft.set_adapter(name)
        own = [prompt for prompt in prompts if prompt.adapter == name]
        rows += peft_generate(tribe, own, new_tokens, **options)
    return rows


def continuous_batch(
    model: Any,
    prompts: list[Prompt],
    new_tokens: int,
    stops: list[int] | None = None,
    persistent: bool = False,
) -> list[list[int]]:
    """transformers' continuous batching of one model.

    Args:
        model: as it is; an adapter may be active in it.
        prompts: whose adapters are not looked at.
        new_tokens: where an answer is cut off.
        stops: tokens that end an answer.
        persistent: keep the cache and, on a GPU, the captured graphs for the next call; they hold the
            weights of the adapter that was active.
    """
    longest = max(len(prompt.ids) for prompt in prompts) + new_tokens
    blocks = len(prompts) * (-(-longest // BLOCK) + 1)
    limit = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=stops or -1, pad_token_id=PAD
    )
    # It shares blocks by token ids alone, whatever adapter has written them.
    cache = ContinuousBatchingConfig(
        block_size=BLOCK, num_blocks=blocks, max_batch_tokens=1024, allow_block_sharing=False
    )
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)  # it advises on every call
    found = model.generate_batch(
        [list(prompt.ids) for prompt in prompts],
        generation_config=limit,
        continuous_batching_config=cache,
        persistent_manager=persistent,
    )
    return [list(each.generated_tokens) for each in found.values()]


def continuous_loop(tribe: Tribe, prompts: list[Prompt], new_tokens: int) -> list[list[int]]:
    """Adapter after adapter: it knows one model, not many adapters in one batch."""
    rows = []
    for name in dict.fromkeys(prompt.adapter for prompt in prompts):
        tribe.peft.set_adapter(name)
        own = [prompt for prompt in prompts if prompt.adapter == name]
        rows += continuous_batch(tribe.peft.get_base_model(), own, new_tokens)
    return rows


def on_gpu(tribe: Tribe) -> bool:
    return tribe.base.decoder.device.type == "cuda"


def clock(tribe: Tribe) -> Callable[[], float]:
    return gpu_clock if on_gpu(tribe) else time.process_time


def stops(tribe: Tribe) -> list[int]:
    """One in 32 tokens ends an answer, so that greedy answers of random weights end after 32 in the mean."""
    return list(range(300, 300 + len(tribe.base.decoder.head) // 32))


def same(tribe: Tribe, ours: Sequence[object], theirs: Sequence[object]) -> bool:
    """All rows; on a GPU, where sums come in another order, nine in ten."""
    equal = [own == other for own, other in zip(ours, theirs, strict=True)]
    return sum(equal) >= len(equal) * (0.9 if on_gpu(tribe) else 1)


def agrees(tribe: Tribe, ours: list[list[int]], theirs: list[list[int]], where: str) -> bool:
    """Whether continuous batching, which is young, can be compared at all; if not, a line says so."""
    if len(ours) == len(theirs) and same(tribe, ours, theirs):
        return True
    print(f"continuous batching, {where}: other greedy tokens than ours, left out", file=sys.stderr)
    return False
