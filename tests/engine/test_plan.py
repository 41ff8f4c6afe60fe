"""The memory plan against counts by hand, loaded models, and what must hold for any of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.pace import card, seconds, whole
from sparta_lite.engine.phases import longest_shared
from sparta_lite.engine.plan import Plan, corrected, plan, planned
from sparta_lite.engine.shape import (
    Linear,
    Shape,
    adapter_parameters,
    nf4_bytes,
    pair_cost,
    read_shape,
    sharing_pays,
    weight_bytes,
)
from sparta_lite.engine.work import Machine, Sizes, Usual, Work
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import base_path

QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
WORK = Work(
    adapters=10,
    adapter=40_370_176,
    number=2,
    four_bit=True,
    prompt=1024,
    answer=512,
    judge_prompt=2048,
    judge_answer=0,
    judge_rounds=1,
    evaluation_answer=512,
    length=512,
    prompt_in_training=256,
    batch=16,
    trainer="tribe",
    moments=8.0,
    uncut=False,
    duels=1000,
    iterations=8,
    epochs=1,
    questions=300,
    evaluations=9,
)
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def shape_of(config: dict[str, Any], directory: Path) -> Shape:
    (directory / "config.json").write_text(json.dumps(config))
    return read_shape(directory)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return shape_of(QWEN_7B, tmp_path_factory.mktemp("qwen"))


def gpu(gigabytes: float) -> Machine:
    return Machine("cuda", "a card", int(gigabytes * 1e9), 1e14, 1e12)


def test_qwen_7b_by_hand(qwen: Shape) -> None:
    q, kv, mlp = 3584 * 3584, 3584 * 512, 3584 * 18944
    linears = 28 * (2 * q + 2 * kv + 3 * mlp)
    others = (
        2 * 152064 * 3584 + 28 * (2 * 3584 + 3584 + 2 * 512) + 3584
    )  # embedding, head, norms, q/k/v biases
    assert sum(each.inputs * each.outputs for each in qwen.linears) == linears
    assert qwen.others == others
    assert qwen.parameters == 7_615_616_512  # as its model card says: 7.61 billion
    packed = linears // 2 + linears // 64 + 4 * (linears // 64 // 256)
    assert weight_bytes(qwen, True, 2) == packed + 2 * others
    assert packed / 1e9 == pytest.approx(3.37, abs=0.005)
    assert weight_bytes(qwen, True, 2) / 1e9 == pytest.approx(5.55, abs=0.005)
    assert planned(qwen, WORK, gpu(24), Sizes(1, 1, 1, 1, True, 10)).kv == 56 * 1024


def test_ten_adapters_on_qwen_7b(qwen: Shape) -> None:
    inputs_and_outputs = 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    one = adapter_parameters(qwen, [(16, "all-linear")] * 10)
    assert one == 16 * inputs_and_outputs
    assert 10 * one * 2 / 1e9 == pytest.approx(0.81, abs=0.005)  # in 16 bits, 1.61 GB in the bank's fp32
    work = replace(WORK, adapter=one)
    train = planned(qwen, work, gpu(80), Sizes(1, 1, 1, 1, True, 10)).phases[2]
    assert train.parts["optimizer"] / 1e9 == pytest.approx(0.32, abs=0.005)
    packed = planned(qwen, replace(work, moments=2 * (1 + 4 / 256)), gpu(80), Sizes(1, 1, 1, 1, True, 10))
    assert packed.phases[2].parts["optimizer"] / 1e9 == pytest.approx(0.08, abs=0.005)


def test_phases_by_hand(qwen: Shape) -> None:
    made = planned(qwen, WORK, gpu(24), Sizes(100, 8192, 1, 2, True, 10))
    generate, judge, train, evaluate = made.phases
    assert generate.parts["KV cache"] == 100 * 1536 * 56 * 1024
    assert generate.parts["adapters"] == judge.parts["adapters"] == 10 * 40_370_176 * 4
    assert evaluate.memory == generate.memory
    assert train.parts["gradients"] == 2 * 40_370_176 * 4
    # Two rows of one prompt token and twice 511 of an answer: each layer's input stays, one is whole.
    tokens = 2 * (1 + 2 * 511)
    inputs = tokens * 28 * 3584 * 2
    whole_layer = tokens * 2 * (4 * 3584 + 5 * 3584 + 4 * 18944)
    assert inputs + whole_layer < train.parts["activations"]
    unpacked, chunk_of_logits, adapters_in_16_bits = 2 * 3584 * 18944, 256 * 152064 * 12, 2 * 2 * 40_370_176
    rest = train.parts["activations"] - unpacked - chunk_of_logits - adapters_in_16_bits
    assert rest < 1.1 * (inputs + whole_layer)
    kept = planned(qwen, WORK, gpu(24), Sizes(100, 8192, 1, 2, False, 10)).phases[2]
    assert kept.parts["activations"] == pytest.approx(28 * whole_layer, rel=0.1)


def test_on_a_card_keys_and_values_stand_once_for_every_query_head(qwen: Shape) -> None:
    """Qwen2.5-7B keeps 5 x 3584 numbers a token and layer for attention; on a CPU 3 x 3584 + 2 x 512."""
    sizes = Sizes(100, 8192, 1, 2, False, 10)
    tokens = 2 * (1 + 2 * 511)
    machines = gpu(80), Machine("cpu", "CPU", 10**12, 1e12, 1e11)

    def training(work: Work, machine: Machine) -> int:
        return planned(qwen, work, machine, sizes).phases[2].parts["activations"]

    card, cpu = (training(WORK, machine) for machine in machines)
    assert card - cpu == 28 * tokens * 2 * (3584 - 512) * 2
    # Unsloth and TRL pass no mask, so that torch's own kernel shares key heads.
    theirs = replace(WORK, trainer="unsloth")
    assert training(theirs, machines[0]) == training(theirs, machines[1])


@given(st.integers(1, 60), st.integers(1, 150))
def test_no_two_judge_prompts_share_a_longer_row_than_planned(prompt: int, batch_tokens: int) -> None:
    narrow = Shape("", 1, 8, 8, 1, 1, 8, 9, 99, (Linear("", 8, 64, True),), 0)
    work = replace(WORK, judge_prompt=prompt)
    shared, tail = longest_shared(narrow, work, batch_tokens)
    cost = pair_cost(8, 8 * 64)  # so narrow that attention outweighs what longer tails save
    rows = [
        common + one + other
        for one in range(3, prompt)
        for other in range(one, prompt)
        for common in range(1, prompt - other + 1)
        if common + one + other <= batch_tokens and sharing_pays(common, [common + one, common + other], cost)
    ]
    assert shared + 2 * tail == max(rows, default=0)


@pytest.mark.parametrize(
    ("config", "scattered"),
    [
        (Qwen2Config(**SMALL, tie_word_embeddings=True), 320 * 64),
        (Qwen3Config(**SMALL, head_dim=32), 2 * 320 * 64),
        (LlamaConfig(**SMALL), 2 * 320 * 64),
        (MistralConfig(**SMALL, head_dim=16), 2 * 320 * 64),
        (Phi3Config(**SMALL), 2 * 320 * 64),
        (Gemma2Config(**SMALL, head_dim=16), 320 * 64),
    ],
    ids=lambda value: value.model_type if isinstance(value, PretrainedConfig) else "",
)
def test_weights_are_those_of_a_loaded_model(
    config: PretrainedConfig, scattered: int, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    shape = read_shape(tmp_path)
    assert weight_bytes(shape, False, 2) == sum(each.nbytes for each in loaded.parameters())
    norms_and_biases = sum(each.numel() for each in loaded.parameters() if each.ndim == 1)
    assert shape.others == scattered + norms_and_biases
    assert (shape.heads, shape.kv_heads, shape.layers, shape.inner) == (4, 2, 2, 96)


def test_nf4_is_what_bitsandbytes_holds() -> None:
    for outputs, inputs in ((96, 64), (48, 320), (512, 1024)):
        linear = Linear4bit(inputs, outputs, bias=False, quant_type="nf4", compress_statistics=True)
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
        linear.load_state_dict({"weight": weight})
        packed = linear.to("cpu").weight
        state = packed.quant_state
        if state is None:
            packed = packed._quantize(torch.device("cpu"))
            state = packed.quant_state
        held = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        assert nf4_bytes(outputs * inputs) == held
    assert nf4_bytes(4096, doubly=False) == 2048 + 4 * 64


def test_a_checkpoint_in_4_bits_is_counted_as_it_is(tmp_path: Path) -> None:
    packing = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_use_double_quant": False,
        "llm_int8_skip_modules": ["lm_head", "layers.0.mlp"],
    }
    shape = shape_of(SMALL | {"model_type": "qwen2", "quantization_config": packing}, tmp_path)
    assert shape.quantized
    assert not shape.doubly
    skipped = [each.name for each in shape.linears if not each.packs]
    assert skipped == [f"layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")]
    assert 2 * sum(each.inputs * each.outputs for each in shape.linears if not each.packs) == 2 * 3 * 64 * 96


def test_a_bank_of_real_adapters(base_path: Path, adapter_paths: dict[str, Path], bank: Bank) -> None:
    settings = [json.loads((path / "adapter_config.json").read_text()) for path in adapter_paths.values()]
    count = adapter_parameters(
        read_shape(base_path), [(each["r"], each["target_modules"]) for each in settings]
    )
    assert len(adapter_paths) * count == sum(tensor.numel() for _, tensor in bank.tensors())


def test_targets_by_name_drag_in_what_shares_their_input(qwen: Shape) -> None:
    only_q = adapter_parameters(qwen, [(8, ["q_proj"])])
    assert only_q == 28 * 8 * (7168 + 2 * 4096)  # k and v stand in the same tensor of the bank
    assert only_q == adapter_parameters(qwen, [(4, ["q_proj", "k_proj"]), (8, r".*self_attn\.v_proj")])


def test_a_24_gb_card_holds_the_papers_run(qwen: Shape) -> None:
    made = plan(qwen, WORK, gpu(24), {})
    assert made.fits
    assert made.sizes.resident == made.sizes.adapters_at_once == 10
    assert made.sizes.places >= 64
    assert plan(qwen, WORK, gpu(80), {}).sizes.checkpointing is False


@given(st.floats(1, 200), st.floats(1, 200), st.sampled_from(["tribe", "unsloth", "trl"]), st.booleans())
def test_more_memory_is_never_worse(qwen: Shape, one: float, two: float, trainer: Any, large: bool) -> None:
    work = replace(WORK, trainer=trainer, adapter=WORK.adapter * (4 if large else 1))
    small, great = (plan(qwen, work, gpu(size), {}) for size in sorted((one, two)))
    assert small.fits <= great.fits
    if not small.fits:
        return
    for made in (small, great):
        assert made.weights + max(phase.memory for phase in made.phases) + made.machine.reserve <= (
            made.machine.memory
        )
    for name in ("places", "batch_tokens", "resident"):
        assert getattr(small.sizes, name) <= getattr(great.sizes, name)

    def training(made: Plan) -> tuple[int, ...]:
        return (-made.sizes.checkpointing, made.sizes.adapters_at_once, made.sizes.micro_batch)

    assert training(small) <= training(great)


@given(
    st.floats(8, 100),
    st.fixed_dictionaries(
        {},
        optional={
            "places": st.integers(1, 500),
            "batch_tokens": st.integers(1, 50_000),
            "micro_batch": st.integers(1, 16),
            "adapters_at_once": st.integers(1, 10),
            "checkpointing": st.booleans(),
            "resident": st.integers(1, 10),
        },
    ),
)
def test_given_sizes_stand(qwen: Shape, memory: float, sizes: dict[str, Any]) -> None:
    made = plan(qwen, WORK, gpu(memory), sizes)
    assert {name: getattr(made.sizes, name) for name in sizes} == sizes
    assert made.fits == (made.peak + made.machine.reserve <= made.machine.memory)


def test_on_a_cpu_with_room_sizes_are_the_usual_ones(qwen: Shape) -> None:
    machine = Machine("cpu", "CPU", int(1e14), 1e11, 1e10)
    assert plan(qwen, WORK, machine, {}).sizes == Sizes(64, 2048, 4, 10, False, 10)


def test_a_bank_that_does_not_fit_waits_outside(qwen: Shape) -> None:
    work = replace(WORK, adapter=4 * WORK.adapter)  # rank 64
    made = plan(qwen, work, gpu(16), {})
    assert made.fits
    assert 1 <= made.sizes.resident < 10
    bank = made.phases[0].parts["adapters"]
    assert bank == made.sizes.resident * work.adapter * 4
    assert made.phases[2].parts["adapters"] == work.adapter * 4  # the window makes room for the trained one


def test_a_measured_excess_makes_its_phase_smaller(qwen: Shape) -> None:
    made = plan(qwen, WORK, gpu(24), {})
    assert corrected(made, {"generate": 0.7, "train": 1.0}) is made
    less = corrected(made, {"judge": 3.0})
    assert less.fits
    assert less.sizes.batch_tokens < made.sizes.batch_tokens
    assert replace(less.sizes, batch_tokens=made.sizes.batch_tokens) == made.sizes
    twice = corrected(corrected(made, {"judge": 1.5}), {"judge": 2.0})
    assert twice.sizes == less.sizes


def test_time_falls_with_a_faster_card_and_grows_with_the_work(qwen: Shape) -> None:
    slow, fast = (plan(qwen, WORK, card(name, int(24e9)), {}) for name in ("NVIDIA L4", "RTX 4090"))
    assert whole(fast) < whole(slow)
    more = plan(qwen, replace(WORK, duels=2000), fast.machine, {})
    assert seconds(more)["judge"] == pytest.approx(2 * seconds(fast)["judge"])
    # By hand: 16,000 judgments of 256 + 512 + 200 tokens, 2 operations per token and number.
    numbers = sum(each.inputs * each.outputs for each in qwen.linears) + WORK.adapter
    least = 16_000 * 968 * 2 * numbers / fast.machine.operations
    assert least < seconds(fast)["judge"] < 1.3 * least


def test_what_is_usual_decides_the_time_and_not_the_memory(qwen: Shape) -> None:
    long = plan(qwen, WORK, gpu(24), {})
    short = plan(
        qwen, replace(WORK, usual=Usual(question=100, answer=50, request=30, pairs=0.25)), gpu(24), {}
    )
    assert (short.sizes, short.peak) == (long.sizes, long.peak)
    before, after = seconds(long), seconds(short)
    # 256 + 512 + 200 tokens are read for a vote, 100 + 50 + 30 now; of a pair 256 + 2 * 256, or 100 + 2 * 50.
    assert after["judge"] / before["judge"] == pytest.approx(180 / 968, rel=0.1)
    assert after["train"] / before["train"] == pytest.approx(0.25 * 200 / 768, rel=0.1)
    assert after["evaluate"] < before["evaluate"] / 5


def test_the_time_of_a_pocket_run_is_the_measured_one() -> None:
    """Seconds of 200 duels and of a whole run, and the rates of the processor's one thread that took them."""
    work = Work(
        **vars(WORK)
        | {
            "adapter": 155_648,
            "number": 4,
            "four_bit": False,
            "answer": 24,
            "evaluation_answer": 24,
            "duels": 200,
            "iterations": 5,
            "evaluations": 6,
            "usual": Usual(question=14, answer=5, request=26, pairs=0.5),
        }
    )
    processor = Machine("cpu", "CPU", int(24e9), 65e9, 19e9)
    made = planned(read_shape(base_path()), work, processor, Sizes(256, 1024, 4, 10, False, 10))
    times = seconds(made)
    assert 3.1 / 1.5 < times["judge"] < 3.1 * 1.5
    assert 2.3 / 1.5 < times["train"] < 2.3 * 1.5
    assert 2.4 / 1.5 < times["evaluate"] < 2.4 * 1.5
    assert 44.8 / 1.5 < whole(made) < 44.8 * 1.5


def test_cards_are_known_by_name_or_taken_for_one_like_them() -> None:
    assert card("NVIDIA GeForce RTX 4090", 1).operations == card("RTX 4090", 2).operations
    assert card("NVIDIA A100-SXM4-40GB", 1).bandwidth < card("NVIDIA H100 80GB HBM3", 1).bandwidth
    assert "as fast as RTX 4090" in card("a card", int(24e9)).name


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SpartaError, match=r"no config\.json"):
        read_shape(tmp_path)
    with pytest.raises(SpartaError, match="makes no causal language model"):
        shape_of({"model_type": "no such thing"}, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SpartaError, match="makes no causal language model"):
        read_shape(tmp_path)


def test_a_loaded_base_takes_what_was_planned(base_path: Path, base: Base) -> None:
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in base.model.parameters()}
    assert weight_bytes(read_shape(base_path), False, 4) == sum(each.nbytes() for each in storages.values())
