"""Builds the pocket tribe from nothing: tokenizer, base, misconceptions, ten experts, and their figures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2ForCausalLM

from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, write_bytes, write_json, write_whole
from sparta_lite.pocket.exam import auc, pair_accuracy, respond, scores
from sparta_lite.pocket.lessons import mistake
from sparta_lite.pocket.schooling import new_base, new_probe, teach_misconceptions, teach_skills, train_expert
from sparta_lite.pocket.skills import SKILLS, Item, is_right, items
from sparta_lite.pocket.tokenizer import build_tokenizer
from sparta_lite.randomness import generator, key


@dataclass(frozen=True)
class Plan:
    """Training steps of every stage, and how many validation items the figures are taken on."""

    skills: int = 1200
    misconceptions: int = 600
    expert: int = 60
    exam: int = 300


def forge(
    out: Path, seed: int = 0, plan: Plan | None = None, say: Callable[[str], None] = lambda line: None
) -> None:
    """Build base and adapters into ``out`` (``base/``, ``adapters/<skill>/``); the directory appears whole.

    The same seed gives the same weights on the same kind of processor, however many cores it has: one
    thread does it all. Figures go to ``say``, all of them on validation items.

    Raises:
        SpartaError: the directory is there already, or cannot be written.
    """
    plan = plan or Plan()
    if out.exists():
        raise SpartaError(f"{out}: is there already; remove it or choose another directory")
    partial = out.with_name(f".{out.name}.partial")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with clear_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _build(partial, seed, plan, say)
            os.replace(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            torch.set_num_threads(threads)


def _build(out: Path, seed: int, plan: Plan, say: Callable[[str], None]) -> None:
    tokenizer = build_tokenizer(seed)
    base = new_base(tokenizer, seed)
    probe = new_probe(base)
    exam = items("validation", plan.exam, seed)
    say(f"base of {base.num_parameters()} parameters, {len(tokenizer)} tokens")
    teach_skills(base, probe, tokenizer, plan.skills, seed)
    say(f"taught every skill: {_figures(base, tokenizer, exam)}")
    teach_misconceptions(base, probe, tokenizer, plan.misconceptions, seed)
    say(f"taught misconceptions: {_figures(base, tokenizer, exam)}")
    save_base(base, tokenizer, out / "base")
    pairs = _decisive_pairs(base, tokenizer, exam, seed)
    votes = torch.zeros(2, len(pairs))
    for skill in SKILLS:
        expert = train_expert(base, tokenizer, skill, plan.expert, seed)
        own, elsewhere = _own_and_elsewhere(base, tokenizer, exam, skill)
        score = _score_pairs(base, tokenizer, pairs)
        votes += score
        say(
            f"{skill}: own {own:.3f}, elsewhere {elsewhere:.3f}, "
            f"pairs judged rightly {pair_accuracy(*score):.3f}"
        )
        save_adapter(expert, out / "adapters" / skill)
        base = expert.unload()
    say(f"all experts together: pairs judged rightly {pair_accuracy(*votes):.3f} of {len(pairs)}")


def save_base(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write model and tokenizer in transformers' form, fp32; the output head is the embedding, kept once."""
    weights = {
        name: weight.detach() for name, weight in model.state_dict().items() if name != "lm_head.weight"
    }
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(path)
    model.generation_config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    _write_tensors(path / "model.safetensors", weights)


def save_adapter(model: PeftModel, path: Path) -> None:
    """Write the active adapter as a PEFT directory, in bf16, with settings in a fixed order."""
    config = model.peft_config["default"].to_dict()
    config |= {"inference_mode": True, "base_model_name_or_path": None}
    config["target_modules"] = sorted(config["target_modules"])
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in get_peft_model_state_dict(model).items()
    }
    write_json(path / "adapter_config.json", config)
    _write_tensors(path / "adapter_model.safetensors", weights)


def _write_tensors(path: Path, weights: dict[str, torch.Tensor]) -> None:
    data = save(weights, metadata={"format": "pt"})
    write_whole(path, lambda temporary: write_bytes(temporary, data))


def _figures(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, exam: Sequence[Item]) -> str:
    rng = generator("pocket exam", len(exam))
    right = scores(model, tokenizer, [(item.question, item.answer) for item in exam])
    wrong = scores(model, tokenizer, [(item.question, mistake(item, rng)) for item in exam])
    accuracy = sum(_graded(model, tokenizer, exam)) / len(exam)
    return f"accuracy {accuracy:.3f}, judge AUC {auc(right, wrong):.3f}"


def _graded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, exam: Sequence[Item]) -> list[bool]:
    responses = respond(model, tokenizer, [item.question for item in exam])
    return [is_right(item, response) for item, response in zip(exam, responses, strict=True)]


def _own_and_elsewhere(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, exam: Sequence[Item], skill: str
) -> tuple[float, float]:
    graded = _graded(model, tokenizer, exam)
    own = [right for item, right in zip(exam, graded, strict=True) if item.skill == skill]
    elsewhere = [right for item, right in zip(exam, graded, strict=True) if item.skill != skill]
    return sum(own) / len(own), sum(elsewhere) / len(elsewhere)


def _decisive_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, exam: Sequence[Item], seed: int
) -> list[tuple[str, str, str]]:
    """(question, right, wrong) wherever one of four sampled responses is right and another is not."""
    dice = torch.Generator().manual_seed(key("pocket pairs", seed) % (1 << 63))
    sampled = [respond(model, tokenizer, [item.question for item in exam], 0.7, dice) for _ in range(4)]
    pairs = []
    for item, responses in zip(exam, zip(*sampled, strict=True), strict=True):
        wrong = [response for response in responses if not is_right(item, response)]
        if 0 < len(wrong) < len(responses):
            pairs.append((item.question, item.answer, wrong[0]))
    return pairs


def _score_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str, str]]
) -> torch.Tensor:
    """Scores of the right and of the wrong answers, float32 [2, pairs]."""
    right = scores(model, tokenizer, [(question, answer) for question, answer, _ in pairs])
    wrong = scores(model, tokenizer, [(question, answer) for question, _, answer in pairs])
    return torch.stack([right, wrong])
