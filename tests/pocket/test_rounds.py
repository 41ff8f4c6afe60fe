"""Sampled rounds of a judge too small to write a verdict's braces."""

from __future__ import annotations

import statistics

import pytest
import torch

from sparta_lite.campaign.config import load_config
from sparta_lite.engine.base import load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.score import expected_scores, sampled_scores
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import adapter_paths, base_path


def test_forced_rounds_scatter_around_the_expected_score() -> None:
    base = load_base(base_path(), torch.device("cpu"))
    name, path = next(iter(adapter_paths().items()))
    bank = load_bank(base.decoder, [read_adapter(name, path)])
    settings = load_config(None, []).judge
    chat = Chat(base.tokenizer, None, settings.layout, settings.wording)
    tokens = chat.score_tokens
    paper = chat.judge("Name the capital of France.", chat.text("Rome"), 200)
    assert paper is not None
    prompt, rounds = Prompt(name, paper.ids), 400
    [expected] = expected_scores(base, bank, [prompt], tokens, 0.0, 1000)
    whole = Sampling(temperature=1.0, top_k=0, top_p=1.0)

    def judged(forced: tuple[int, ...]) -> list[float | None]:
        asked = [Prompt(name, paper.ids, key) for key in range(rounds)]
        found = sampled_scores(
            base, bank, asked, 1, whole, 4, 200, lambda key, number: key + number, forced=forced
        )
        return [each.value for each in found]

    values = [value for value in judged(tokens.prefix) if value is not None]
    assert expected.value is not None
    assert expected.mass is not None
    assert len(values) / rounds == pytest.approx(expected.mass, abs=0.1)
    error = statistics.stdev(values) / len(values) ** 0.5
    assert 0 < error < 0.3
    assert abs(statistics.mean(values) - expected.value) < 4 * error
    assert judged(()).count(None) > rounds * 0.9  # on its own it hardly ever writes one
