"""The harness's model interface over our engine, against the harness's own model for transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sparta_lite.engine.harness import HarnessModel

CONTEXTS = [
    ("Two and two make", " four"),
    ("Two and two make", " f"),
    ("Two and two make", " t"),
    ("a trailing space moves ", "on"),
    ("line\n", "\nbreaks"),
    ("", "no context at all"),
    ("<|im_start|>user\nhi<|im_end|>\n", "well"),
    ("left " * 150, "truncated"),  # 750 tokens before 9, in a context of 512
]


def request(kind: Any, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0, ("test", 0, 1))


@pytest.fixture(scope="module", params=["ada", "ben", None])
def pair(
    request: pytest.FixtureRequest, base: Base, bank: Bank, base_path: Path, adapter_paths: dict[str, Path]
) -> tuple[HarnessModel, HFLM]:
    """Ours, and theirs over the base with the same adapter merged into it."""
    model = AutoModelForCausalLM.from_pretrained(base_path)
    if request.param is not None:
        model = PeftModel.from_pretrained(model, adapter_paths[request.param]).merge_and_unload()
    theirs = HFLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base_path), device="cpu", batch_size=4
    )
    return HarnessModel(base, bank, request.param, batch_tokens=1500, places=3, seed=0), theirs


def test_likelihoods_and_greedy_flags_are_the_harness_s(pair: tuple[HarnessModel, HFLM]) -> None:
    ours, theirs = pair
    requests = [request("loglikelihood", *each) for each in CONTEXTS]
    # What each model itself would say next, which alone is greedy.
    for context in ("Two and two make", "more"):
        said = theirs.generate_until([request("generate_until", context, {"until": [], "max_gen_toks": 3})])
        requests.append(request("loglikelihood", context, said[0]))
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in found} == {True, False}


def test_rolling_likelihoods_are_the_harness_s(pair: tuple[HarnessModel, HFLM]) -> None:
    ours, theirs = pair
    texts = ["", "x", "short", "a text in three windows, " * 50]  # 1250 tokens
    requests = [request("loglikelihood_rolling", text) for text in texts]
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-4, rel=1e-6)


def test_answers_are_the_harness_s(pair: tuple[HarnessModel, HFLM]) -> None:
    ours, theirs = pair
    free = {"until": [], "max_gen_toks": 12}
    plain = theirs.generate_until([request("generate_until", "What now?", free)], disable_tqdm=True)[0]
    # Half a character looks like U+FFFD until its other half comes: no stop string to compare by.
    whole = re.findall(r"[^\ufffd]+", plain)
    last, longest = whole[-1], max(whole, key=len)
    settings = [
        free,
        {"until": [longest], "max_gen_toks": 12, "do_sample": False},
        {"until": ["never there", last[-1]], "max_gen_toks": 12, "temperature": 0.0},
        {"until": longest[0], "max_gen_toks": 8},
    ]
    contexts = ["What now?", "And then? ", "left " * 150]
    requests = [request("generate_until", context, given) for given in settings for context in contexts]
    found = ours.generate_until(requests)
    assert found == theirs.generate_until(requests, disable_tqdm=True)
    assert found[3] == plain[: plain.index(longest)]
    assert len(set(found)) > 4


def test_generation_ends_where_a_stop_string_does(base: Base, bank: Bank) -> None:
    ours = HarnessModel(base, bank, "ada", batch_tokens=1500, places=3, seed=0)
    prompt = Prompt("ada", tuple(ours.tok_encode("What now?")))
    [free] = generate(base, bank, [prompt], Sampling(temperature=0), 12, 1)
    stop = max(re.findall(r"[^\ufffd]+", free.text), key=len)
    [short] = generate(base, bank, [prompt], Sampling(temperature=0), 12, 1, until=ours._until((stop,)))
    assert short.stop == "text"
    assert short.ids == free.ids[: len(short.ids)]
    assert short.text == free.text[: free.text.index(stop)] + stop
    assert ours._until(("<|im_end|>",))([5, base.tokenizer.eos_token_id])


def test_samples_of_one_request_differ_and_repeat(base: Base, bank: Bank) -> None:
    given = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = [request("generate_until", "Say something", given)] * 4

    def sample(seed: int, places: int) -> list[str]:
        return HarnessModel(base, bank, "ada", 1500, places, seed).generate_until(requests)

    first = sample(0, 4)
    assert len(set(first)) > 1
    assert sample(0, 2) == first
    assert sample(1, 4) != first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4}, "asks to generate with num_beams, which this engine does not do"),
        ({"max_gen_toks": 512}, "asks for 512 new tokens, the base's context has 512"),
    ],
)
def test_what_the_engine_does_not_do_is_refused(
    base: Base, bank: Bank, given: dict[str, Any], said: str
) -> None:
    ours = HarnessModel(base, bank, None, batch_tokens=1500, places=3, seed=0)
    with pytest.raises(SpartaError, match=said):
        ours.generate_until([request("generate_until", "hi", given)])


def test_an_adapter_of_nan_gives_no_figure(base: Base, bank: Bank) -> None:
    kept = bank.snapshot()
    try:
        next(bank.tensors())[1].fill_(float("nan"))
        ours = HarnessModel(base, bank, "ada", batch_tokens=1500, places=3, seed=0)
        with pytest.raises(SpartaError, match="adapter 'ada' gives NaN"):
            ours.loglikelihood([request("loglikelihood", "a", "b")])
    finally:
        bank.restore(kept)


def test_the_chat_template_is_the_harness_s(pair: tuple[HarnessModel, HFLM]) -> None:
    ours, theirs = pair
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert ours.apply_chat_template(turns) == theirs.apply_chat_template(turns)
    turns.append({"role": "assistant", "content": "The answer is"})
    assert ours.apply_chat_template(turns, False) == theirs.apply_chat_template(turns, False)
    assert ours.chat_template(True) == theirs.chat_template(True)
