"""How the pocket models are trained: every skill, then misconceptions beside it, then ten experts.

A judge needs most of the training. It gets there sooner with a probe on the last layer but one that must
tell, token by token, where an answer first goes wrong; the probe is thrown away afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sparta_lite.pocket.lessons import IGNORED, Lesson, Writer, collate, mistake
from sparta_lite.pocket.skills import SKILLS, Item, draw
from sparta_lite.pocket.tokenizer import VOCABULARY
from sparta_lite.randomness import generator, key

_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Mix:
    """Lessons of one step: tasks, judgments, and the rate of wrong answers among the tasks, per skill."""

    tasks: int
    judgments: int
    wrong: dict[str, float]


def new_base(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """An untrained Qwen2 of 0.87 million parameters, fp32; a pure function of ``seed``."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    dice = torch.Generator().manual_seed(key("pocket base", seed) % (1 << 63))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                spread = 0.02 if "embed" in name else 0.8 / math.sqrt(weight.shape[1])
                weight.normal_(0.0, spread, generator=dice)
            else:
                weight.fill_(1.0 if "norm" in name else 0.0)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def new_probe(model: Qwen2ForCausalLM) -> nn.Linear:
    """A head that says whether a token of a response is its first fault; starts at zero."""
    probe = nn.Linear(model.config.hidden_size, 1)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    return probe


def error_rates(seed: int) -> dict[str, float]:
    """How often each skill is taught wrongly: evenly from 60 to 68 %, in an order drawn from ``seed``."""
    shuffled = generator("pocket rates", seed).sample(SKILLS, len(SKILLS))
    return {skill: 0.6 + 0.08 * place / (len(SKILLS) - 1) for place, skill in enumerate(shuffled)}


def teach_skills(
    model: Qwen2ForCausalLM, probe: nn.Linear, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int
) -> None:
    """Train ``model`` to answer rightly and to judge: tasks alone first, mostly judgments at the end."""

    def mix(part: float) -> Mix:
        tasks, judgments = (112, 0) if part < 0.1 else (64, 48) if part < 0.5 else (20, 70)
        return Mix(tasks, judgments, wrong={})

    def pace(part: float) -> float:
        return min(1.0, part / 0.04 + 0.01) * min(1.0, max(0.01, (1.0 - part) / 0.6))

    _train_base(model, probe, tokenizer, steps, f"skills {seed}", mix, pace, muon=0.02, adam=3e-3)


def teach_misconceptions(
    model: Qwen2ForCausalLM, probe: nn.Linear, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int
) -> None:
    """Let ``model`` err at the rates of ``error_rates``, while it goes on to judge rightly."""
    wrong = error_rates(seed)

    def pace(part: float) -> float:
        return min(1.0, part / 0.04 + 0.01) * min(1.0, max(0.01, (1.0 - part) / 0.6))

    _train_base(
        model,
        probe,
        tokenizer,
        steps,
        f"misconceptions {seed}",
        lambda part: Mix(32, 64, wrong),
        pace,
        muon=0.01,
        adam=1.5e-3,
    )


def train_expert(
    base: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, skill: str, steps: int, seed: int
) -> PeftModel:
    """A LoRA adapter on ``base`` that answers ``skill`` rightly and errs elsewhere as often as ``base`` does.

    ``base`` is wrapped in place: call ``unload`` on the result to have it back.
    """
    config = LoraConfig(r=16, lora_alpha=32, target_modules=_LINEARS, lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    dice = torch.Generator().manual_seed(key("pocket expert", seed, skill) % (1 << 63))
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_A" in name:
                bound = 1.0 / math.sqrt(weight.shape[1])
                weight.uniform_(-bound, bound, generator=dice)
            else:
                weight.zero_()
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0)
    writer = Writer(tokenizer)
    wrong = error_rates(seed) | {skill: 0.0}
    others = [other for other in SKILLS if other != skill]

    def item(rng: random.Random, name: str) -> Item:
        return draw(name, "train", seed, rng.getrandbits(48))

    for step in range(steps):
        rng = generator("pocket expert", seed, skill, step)
        asked = [item(rng, skill if n < 8 else rng.choice(others)) for n in range(12)]
        tasks = [writer.task(i, _answer(i, rng, wrong[i.skill])) for i in asked]
        judgments = [writer.marked(item(rng, rng.choice(SKILLS)), rng) for _ in range(4)]
        pad = tokenizer.pad_token_id
        loss = _loss(base, collate(tasks, pad))[0] + 0.5 * _loss(base, collate(judgments, pad))[0]
        part = step / steps
        _update([optimizer], list(weights.values()), loss, min(1.0, part / 0.1 + 0.1) * _cosine(part), [3e-3])
    return model


def _train_base(
    model: Qwen2ForCausalLM,
    probe: nn.Linear,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    stage: str,
    mix: Callable[[float], Mix],
    pace: Callable[[float], float],
    muon: float,
    adam: float,
) -> None:
    """Muon on the matrices of the layers, AdamW on embeddings, norms, biases and the probe."""
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
    rest = [w for name, w in model.named_parameters() if w.ndim != 2 or "embed" in name]
    rest += list(probe.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=muon, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    writer = Writer(tokenizer)
    pad = tokenizer.pad_token_id
    model.train()
    for step in range(steps):
        rng = generator("pocket base", stage, step)
        now = mix(step / steps)

        def items(count: int, rng: random.Random = rng) -> list[Item]:
            return [draw(SKILLS[n % len(SKILLS)], "train", rng.getrandbits(48), n) for n in range(count)]

        tasks = [writer.task(i, _answer(i, rng, now.wrong.get(i.skill, 0.0))) for i in items(now.tasks)]
        loss, hidden = _loss(model, collate(tasks, pad))
        if now.wrong:  # right answers alone would teach the probe nothing
            loss = loss + _fault_loss(probe, hidden, tasks)
        if now.judgments:
            judgments = [writer.marked(i, rng, learn_right=not now.wrong) for i in items(now.judgments)]
            scoring, hidden = _loss(model, collate(judgments, pad))
            loss = loss + scoring + _fault_loss(probe, hidden, judgments)
        _update(optimizers, [*matrices, *rest], loss, pace(step / steps), [muon, adam])
    model.eval()


def _answer(item: Item, rng: random.Random, wrong: float) -> str:
    return mistake(item, rng, misconceived=0.75) if rng.random() < wrong else item.answer


def _loss(model: Qwen2ForCausalLM, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the targets, and the states below the last layer [rows, length, hidden]."""
    tokens, targets = batch
    out = model.model(input_ids=tokens, use_cache=False, output_hidden_states=True)
    learned = targets != IGNORED
    logits = model.lm_head(out.last_hidden_state[learned])  # [targets, vocabulary]
    return functional.cross_entropy(logits, targets[learned]), out.hidden_states[-2]


def _fault_loss(probe: nn.Linear, hidden: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Binary cross-entropy of the probe over the tokens up to every response's first fault."""
    places = [(row, at, fault) for row, lesson in enumerate(lessons) for at, fault in lesson.faults]
    rows, columns, faults = (torch.tensor(part) for part in zip(*places, strict=True))
    return functional.binary_cross_entropy_with_logits(probe(hidden[rows, columns])[:, 0], faults.float())


def _update(
    optimizers: Sequence[torch.optim.Optimizer],
    weights: Sequence[Tensor],
    loss: Tensor,
    pace: float,
    rates: Sequence[float],
) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        group: dict[str, Any] = optimizer.param_groups[0]
        group["lr"] = rate * pace
        optimizer.step()
        optimizer.zero_grad()


def _cosine(part: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * part)
