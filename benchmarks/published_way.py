"""An iteration in the published program's steps: model after model, on a PEFT model of the pocket tribe."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import PeftModel
from side_by_side import trl_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.campaign.records import FoughtDuel
from sparta_lite.combat import Bout, Duel, Votes
from sparta_lite.pocket import adapter_paths, base_path
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
ANSWER_BATCH, DUELS_PER_JUDGE_BATCH, JUDGE_TOKENS = 24, 12, 256  # 24 rows: the published launch script

_NUMBER = re.compile(r"\s*(10|[1-9])(?!\d)")  # a score that follows the forced opening


@dataclass(frozen=True)
class Peer:
    """All adapters in one PEFT model, of which one is active at a time."""

    model: Any
    tokenizer: Any

    def reply(
        self,
        adapter: str,
        conversations: Sequence[list[dict[str, str]]],
        limit: int,
        opening: Sequence[int] = (),
        **sampling: Any,
    ) -> list[list[int]]:
        """Replies of one static batch in tokens, without their forced ``opening``, with what ended them."""
        self.model.set_adapter(adapter)
        asked = self.tokenizer.apply_chat_template(conversations, add_generation_prompt=True)["input_ids"]
        inputs = self.tokenizer.pad({"input_ids": [[*ids, *opening] for ids in asked]}, return_tensors="pt")
        with torch.no_grad():
            rows = self.model.generate(**inputs, max_new_tokens=limit, **sampling)
        stops = set(self.model.generation_config.eos_token_id)
        return [_ended(row, stops) for row in rows[:, inputs["input_ids"].shape[1] :].tolist()]


def _ended(row: list[int], stops: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return row[: end + 1]


def load_peer(tribe: Sequence[str]) -> Peer:
    paths = adapter_paths()
    base = AutoModelForCausalLM.from_pretrained(base_path())
    model = PeftModel.from_pretrained(base, paths[tribe[0]], adapter_name=tribe[0])
    for name in tribe[1:]:
        model.load_adapter(paths[name], adapter_name=name)
    return Peer(model.eval(), AutoTokenizer.from_pretrained(base_path(), padding_side="left"))


def answer(
    peer: Peer, tribe: Sequence[str], duels: Sequence[tuple[Duel, str]], limit: int, **sampling: Any
) -> dict[tuple[int, str], list[int]]:
    """Fighter after fighter answers all its duels: (duel, fighter) -> tokens."""
    answers: dict[tuple[int, str], list[int]] = {}
    for name in tribe:
        own = [(duel.index, instruction) for duel, instruction in duels if name in duel.fighters]
        for start in range(0, len(own), ANSWER_BATCH):
            part = own[start : start + ANSWER_BATCH]
            asked = [[{"role": "user", "content": instruction}] for _, instruction in part]
            replies = peer.reply(name, asked, limit, **sampling)
            answers |= {(index, name): ids for (index, _), ids in zip(part, replies, strict=True)}
    return answers


@dataclass
class Rounds:
    """What the judges' sampled rounds came to."""

    votes: dict[int, dict[str, tuple[float | None, float | None]]]
    """Duel -> judge -> mean score of both responses over the rounds that parsed."""
    parsed: list[bool] = field(default_factory=list)
    """Of every reply, as ``tokens``."""
    tokens: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """Of every batch: tokens of its longest reply."""


def judge_in_rounds(
    peer: Peer,
    tribe: Sequence[str],
    fought: Sequence[FoughtDuel],
    request: str,
    opening: Sequence[int],
    rounds: int,
) -> Rounds:
    """Judge after judge, batch after batch, round after round; every response is scored by itself.

    Args:
        peer: the judges.
        tribe: who judges wherever they do not fight.
        fought: the duels with both answers.
        request: what asks for a score, as the next user turn after question and answer.
        opening: the tokens of ``{"score": ``, which the pocket judges have to be given to go on with a score.
        rounds: how often each judge is asked.
    """
    found = Rounds({each.duel.index: {} for each in fought})
    for name in tribe:
        own = [each for each in fought if name not in each.duel.fighters]
        for start in range(0, len(own), DUELS_PER_JUDGE_BATCH):
            part = own[start : start + DUELS_PER_JUDGE_BATCH]
            asked = [
                [
                    {"role": "user", "content": each.instruction},
                    {"role": "assistant", "content": response.text},
                    {"role": "user", "content": request},
                ]
                for each in part
                for response in each.responses
            ]
            cast = []
            for _ in range(rounds):
                replies = peer.reply(name, asked, JUDGE_TOKENS, opening, **SAMPLED)
                texts = peer.tokenizer.batch_decode(replies, skip_special_tokens=True)
                scores = [int(match[1]) if (match := _NUMBER.match(text)) else None for text in texts]
                cast.append(list(zip(scores[::2], scores[1::2], strict=True)))
                found.parsed += [score is not None for score in scores]
                found.tokens += map(len, replies)
                found.steps.append(max(map(len, replies)))
            for each, pairs in zip(part, zip(*cast, strict=True), strict=True):
                found.votes[each.duel.index][name] = _mean(pairs)
    return found


def _mean(pairs: Sequence[tuple[int | None, int | None]]) -> tuple[float | None, float | None]:
    """Over the rounds in which both responses got a score."""
    valid = [(first, second) for first, second in pairs if first is not None and second is not None]
    if not valid:
        return None, None
    return statistics.fmean(first for first, _ in valid), statistics.fmean(second for _, second in valid)


def settle(tribe: Sequence[str], cast: Sequence[Bout]) -> tuple[dict[str, float], dict[int, int]]:
    """The published rules, written apart from ours: reputations after them, and duel -> chosen side."""
    reputation, deviation = dict.fromkeys(tribe, 100.0), dict.fromkeys(tribe, 0.5)
    changes: dict[str, list[float]] = {name: [] for name in tribe}
    for number, (duel, votes) in enumerate(cast, start=1):
        lead = _lead(votes, reputation)
        if lead is None:
            continue
        kappa = max(5.0, 10.0 * 0.9 ** (number / 10)) / 20.0
        first, second = duel.fighters
        spread = math.hypot(deviation[first], deviation[second])
        for own, other, gain in ((first, second, lead), (second, first, -lead)):
            gap = (reputation[own] - reputation[other]) / spread
            surprise = max(abs(math.erf(gap / math.sqrt(2))), 0.01)  # |Phi(gap) - Phi(-gap)|
            now = max(10.0, reputation[own] + kappa * gain * math.tanh(deviation[own]) * surprise)
            changes[own].append(now - reputation[own])
            reputation[own] = now
        for name in duel.fighters:
            if len(changes[name]) > 1:
                deviation[name] = max(statistics.pstdev(changes[name][-10:]), 0.1)
    leads = {duel.index: _lead(votes, reputation) for duel, votes in cast}
    return reputation, {index: int(lead < 0) for index, lead in leads.items() if lead}


def _lead(votes: Votes, weights: Mapping[str, float]) -> float | None:
    """Weighted mean of how far the first response is ahead; None without a vote."""
    valid = [
        (weights[name], first - second)
        for name, (first, second) in votes.items()
        if first is not None and second is not None
    ]
    if not valid:
        return None
    return math.fsum(weight * ahead for weight, ahead in valid) / math.fsum(weight for weight, _ in valid)


def trainers(
    peer: Peer, tribe: Sequence[str], pairs: Sequence[TokenizedPair], settings: DpoSettings, scratch: Path
) -> list[Any]:
    """TRL's, one per adapter, for one epoch of ``pairs`` in this order."""
    rows = [{side: list(getattr(pair, side)) for side in ("prompt", "chosen", "rejected")} for pair in pairs]
    texts = [{side: peer.tokenizer.decode(ids) for side, ids in row.items()} for row in rows]
    tokens = Dataset.from_list([{f"{side}_ids": ids for side, ids in row.items()} for row in rows])
    made = []
    for name in tribe:
        trainer = trl_trainer(base_path(), adapter_paths()[name], scratch, Dataset.from_list(texts), settings)
        trainer.train_dataset = tokens  # the very tokens that were generated, not their text tokenised anew
        made.append(trainer)
    return made
