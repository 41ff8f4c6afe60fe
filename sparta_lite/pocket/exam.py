"""How well a pocket model answers and judges: greedy accuracy, and how judges rank right above wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sparta_lite.pocket import JUDGE_REQUEST, SCORE_PREFIX

_LONGEST = 24  # tokens; the longest right answer has 9
_ROWS = 256


@torch.no_grad()
def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[str],
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """One response per question: greedy at temperature 0, else sampled with ``generator``."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    responses = [""] * len(questions)
    for length in sorted({len(prompt) for prompt in prompts}):  # equal lengths need no padding
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        tokens = _continue(
            model,
            torch.tensor([prompts[row] for row in rows]),
            tokenizer.eos_token_id,
            temperature,
            generator,
        )
        for row, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            responses[row] = text
    return responses


def _continue(
    model: PreTrainedModel, prompts: Tensor, stop: int, temperature: float, generator: torch.Generator | None
) -> Tensor:
    """The next tokens of ``prompts`` (int64 [rows, length]) until every row has stopped; [rows, steps]."""
    done = torch.zeros(len(prompts), dtype=torch.bool)
    found: list[Tensor] = []
    cache, step = None, prompts
    while len(found) < _LONGEST and not done.all():
        out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1].float()  # [rows, vocabulary]
        if temperature:
            step = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)
        else:
            step = logits.argmax(1, keepdim=True)
        step = torch.where(done[:, None], stop, step)  # [rows, 1]
        found.append(step)
        done |= step[:, 0] == stop
    return torch.cat(found, 1)


@torch.no_grad()
def scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, answered: Sequence[tuple[str, str]]
) -> Tensor:
    """Expected score over 1..10 of each (question, response), judged by turns; float32 [answered]."""
    one, zero = tokenizer.convert_tokens_to_ids(["1", "0"])
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("123456789")))
    found = [torch.empty(0)]
    for start in range(0, len(answered), _ROWS):
        prompts = []
        for question, response in answered[start : start + _ROWS]:
            turns = [("user", question), ("assistant", response), ("user", JUDGE_REQUEST)]
            chat = [{"role": role, "content": text} for role, text in turns]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            prompts.append([*tokenizer.encode(text + SCORE_PREFIX, add_special_tokens=False), one])
        longest = max(map(len, prompts))
        tokens = torch.tensor(
            [prompt + [tokenizer.pad_token_id] * (longest - len(prompt)) for prompt in prompts]
        )
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
        hidden = model.model(input_ids=tokens).last_hidden_state
        rows = torch.arange(len(prompts))
        before, after = (model.lm_head(hidden[rows, place]).float() for place in (ends - 1, ends))
        chances = before.softmax(1)[:, digits]  # [rows, 9]
        ten = chances[:, :1] * after.softmax(1)[:, zero : zero + 1]
        chances = torch.cat([chances[:, :1] - ten, chances[:, 1:], ten], 1)  # [rows, 10]
        found.append((chances * torch.arange(1, 11)).sum(1) / chances.sum(1))
    return torch.cat(found)


def auc(right: Tensor, wrong: Tensor) -> float:
    """Chance that a right answer's score is above a wrong one's; ties count half."""
    gap = right[:, None] - wrong[None, :]
    return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())


def pair_accuracy(ours: Tensor, theirs: Tensor) -> float:
    """Share of pairs with ``ours``, the right answer, scored higher; half for ties, NaN for no pairs."""
    return float(((ours > theirs).float() + 0.5 * (ours == theirs).float()).mean())
