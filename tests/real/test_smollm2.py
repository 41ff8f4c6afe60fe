"""A real language model: our engine against transformers, PEFT, bitsandbytes, TRL and gguf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from peft import PeftModel
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.gguf_base import unpack
from sparta_lite.engine.gguf_file import read_gguf
from sparta_lite.engine.gguf_lora import write_gguf_lora
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoStep

from ..engine.test_nf4 import dequantized
from ..training.test_trl import ITERATION, SEED, distance, named, recorded, trl
from .conftest import CPU

QUESTIONS = Path(__file__).parents[2] / "examples" / "word_problems" / "train.jsonl"
GREEDY = Sampling(temperature=0)
TOKENS = 12
NAMES = (None, "ada", "ben", "cyd")


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[Prompt]:
    """Sixteen questions of our own, four for each adapter and the bare base, in turns."""
    chat = Chat(base.tokenizer, None, "turns", "", ending=base.ending)
    questions = [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()[:16]]
    return [
        Prompt(NAMES[key % 4], chat.question(question, 200).ids, key=key)
        for key, question in enumerate(questions)
    ]


def test_its_matrices_are_what_gguf_dequantises(gguf: Path, model: Any) -> None:
    tensors = read_gguf(gguf).tensors
    state = model.state_dict()
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down"),
        ("model.layers.29.self_attn.v_proj", "blk.29.attn_v"),
    ):
        tensor = tensors[f"{theirs}.weight"]
        expected = quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(state[f"{ours}.weight"].numpy(), expected)


def test_its_special_tokens_are_those_of_the_file(base: Base) -> None:
    tokenizer = base.tokenizer
    assert base.stops == {2}
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    chat = Chat(tokenizer, None, "turns", "", ending=base.ending)
    ids = chat.question("Hi", 100).ids
    assert [ids[0], ids.count(1), ids.count(2)] == [1, 3, 2]
    # Every digit is a word of its own, and so spaces before one stay together.
    assert tokenizer.tokenize("a  12\n\n 7") == ["a", "ĠĠ", "1", "2", "ĊĊĠ", "7"]


def test_greedy_answers_are_those_of_transformers_and_peft(
    base: Base, bank: Bank, peft_model: PeftModel, prompts: list[Prompt]
) -> None:
    """Ours in five places that are refilled, of mixed adapters; theirs adapter by adapter."""
    ours = generate(base, bank, prompts, GREEDY, TOKENS, 5)
    for name in NAMES:
        rows = [prompt for prompt in prompts if prompt.adapter == name]
        expected = theirs(peft_model, name, [row.ids for row in rows])
        assert [list(ours[row.key].ids) for row in rows] == expected


def theirs(model: PeftModel, name: str | None, rows: list[tuple[int, ...]]) -> list[list[int]]:
    """Greedy answers of PEFT's model in a batch that is padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[2] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    options = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 2, "eos_token_id": 2}
    if name is None:
        with model.disable_adapter():
            out = model.generate(input_ids=ids, attention_mask=mask, **options)
    else:
        model.set_adapter(name)
        out = model.generate(input_ids=ids, attention_mask=mask, **options)
    answers = [row[longest:].tolist() for row in out]
    return [row[: row.index(2) + 1] if 2 in row else row for row in answers]


def logits(base: Base, ids: Tensor, bank: Bank | None = None, name: str | None = None) -> Tensor:
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    lora = bank.lora([name] * len(ids)) if bank else None
    hidden = base.decoder.hidden(ids, positions, WholeSequences(base.decoder.mixers), lora)
    return base.decoder.logits(hidden)


@torch.no_grad()
def test_logits_with_an_adapter_are_pefts(
    base: Base, bank: Bank, peft_model: PeftModel, prompts: list[Prompt]
) -> None:
    ids = torch.tensor([prompts[0].ids])
    bare = logits(base, ids)
    for name in NAMES[1:]:
        peft_model.set_adapter(name)
        found = logits(base, ids, bank, name)
        torch.testing.assert_close(found, peft_model(ids).logits, atol=2e-3, rtol=1e-4)
        assert (found - bare).abs().max() > 0.1


@torch.no_grad()
def test_in_4_bits_it_computes_over_what_bitsandbytes_dequantises(gguf: Path, prompts: list[Prompt]) -> None:
    base = load_base(gguf, CPU, quantization="nf4")
    ids = torch.tensor([prompts[0].ids])
    expected = dequantized(base, unpack(gguf))(ids).logits
    torch.testing.assert_close(logits(base, ids), expected, atol=2e-3, rtol=1e-4)


@pytest.mark.interpreted
def test_a_step_of_dpo_is_trls(
    base: Base, gguf: Path, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    texts = [
        {
            "prompt": f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
            "chosen": f"{right}<|im_end|>",
            "rejected": f"{wrong}<|im_end|>",
        }
        for question, right, wrong in (("2+3?", "It is 5.", "7"), ("A word for cold?", "Icy", "It is hot."))
    ]
    pairs = [
        TokenizedPair(
            *(tuple(base.tokenizer(text[key])["input_ids"]) for key in ("prompt", "chosen", "rejected"))
        )
        for text in texts
    ]
    settings = DpoSettings(learning_rate=1e-4, warmup=0, batch=2, micro_batch=2, max_grad_norm=1.0)
    run = trl(unpack(gguf), adapter_paths["ben"], texts, settings, tmp_path)
    bank = load_bank(base.decoder, [read_adapter("ben", adapter_paths["ben"])])
    steps: list[DpoStep] = []
    gradients: list[Bank] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: gradients.append(recorded(bank, optimizer)))
    train(base.decoder, bank, pairs, settings, seed=SEED, iteration=ITERATION, pad=2, on_step=steps.append)
    hook.remove()
    assert len(steps) == len(run.logs) == 1
    for key, field in {"logps/chosen": "chosen_logprob", "logps/rejected": "rejected_logprob"}.items():
        assert getattr(steps[0], field) == pytest.approx(float(run.logs[0][key]), rel=1e-4), key
    assert distance(named(gradients[0], 0, run.gradients[0]), run.gradients[0]) < 1e-3 * distance(
        run.gradients[0]
    )


def test_an_adapter_in_gguf_form_adds_what_peft_adds_and_names_its_base(
    gguf: Path, model: Any, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    write_gguf_lora(str(gguf), "cyd", adapter_paths["cyd"], tmp_path / "a.gguf")
    reader = GGUFReader(tmp_path / "a.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["general.base_model.0.name"] == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert fields["general.base_model.0.organization"] == "HuggingFaceTB"
    assert fields["general.base_model.0.description"].startswith(gguf.name)
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    weights = read_adapter("cyd", adapter_paths["cyd"]).weights
    assert len(tensors) == 2 * len(weights) == 2 * 4 * 30
    for theirs, ours, heads in (
        ("blk.7.ffn_up", "layers.7.mlp.up_proj", None),
        ("blk.29.attn_output", "layers.29.self_attn.o_proj", None),
        ("blk.3.attn_k", "layers.3.self_attn.k_proj", 3),
    ):
        a, b = weights[ours]
        # llama.cpp rotates neighbours: a head's first half stands at even rows, its second at odd ones.
        rows = b if heads is None else torch.stack(b.unflatten(0, (heads, 2, -1)).unbind(1), 2).flatten(0, 2)
        got = tensors[f"{theirs}.weight.lora_b"] @ tensors[f"{theirs}.weight.lora_a"]
        scale = fields["adapter.lora.alpha"] / a.shape[0]
        torch.testing.assert_close(got * scale, rows @ a * 2, rtol=0, atol=1e-6)
