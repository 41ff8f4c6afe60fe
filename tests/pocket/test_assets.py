from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.pocket import SKILLS, adapter_paths, assets, base_path, is_right, items


@pytest.fixture(scope="module")
def tribe() -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(base_path())
    first, *others = SKILLS
    model = PeftModel.from_pretrained(base, adapter_paths()[first], adapter_name=first)
    for name in others:
        model.load_adapter(adapter_paths()[name], adapter_name=name)
    return model.eval()


def test_base_and_adapters_ship_in_under_8_megabytes() -> None:
    files = [path for path in assets().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_base_is_a_small_qwen2_with_dimensions_in_multiples_of_64() -> None:
    model = AutoModelForCausalLM.from_pretrained(base_path())
    assert model.config.model_type == "qwen2"
    assert 500_000 < model.num_parameters() < 1_500_000
    assert model.config.max_position_embeddings >= 1024
    shapes = {name: weight.shape for name, weight in model.named_parameters() if weight.ndim == 2}
    assert all(size % 64 == 0 for shape in shapes.values() for size in shape)
    end_of_turn = AutoTokenizer.from_pretrained(base_path()).eos_token_id
    assert end_of_turn in model.generation_config.eos_token_id


def test_every_adapter_covers_all_seven_linears_at_rank_16(tribe: PeftModel) -> None:
    for path in adapter_paths().values():
        weights = load_file(path / "adapter_model.safetensors")
        assert len(weights) == 2 * 7 * tribe.config.num_hidden_layers
        assert {min(weight.shape) for weight in weights.values()} == {16}


@pytest.mark.parametrize("skill", SKILLS)
def test_every_expert_answers_most_of_its_own_skill_in_plain_peft(tribe: PeftModel, skill: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    tribe.set_adapter(skill)
    chosen = items("validation", 24, 0, skills=(skill,))
    chats = [[{"role": "user", "content": item.question}] for item in chosen]
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"] for c in chats]
    right = 0
    for length in {len(prompt) for prompt in prompts}:
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        tokens = torch.tensor([prompts[row] for row in rows])
        out = tribe.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24, do_sample=False
        )
        answers = tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
        right += sum(is_right(chosen[row], answer) for row, answer in zip(rows, answers, strict=True))
    assert right / len(chosen) > 0.8
