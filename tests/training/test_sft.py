"""What an adapter is taught, token by token, and how: against the template's own text and a plain loss."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.ending import learn_ending
from sparta_lite.engine.peft_io import load_bank, new_adapter
from sparta_lite.engine.template import Template
from sparta_lite.errors import SpartaError
from sparta_lite.training.optim import cosine
from sparta_lite.training.sft import Lesson, SftResult, SftSettings, tokenize, train_adapter
from sparta_lite.training.view import adapter_view, load, wrap_with_peft

DIALOGUE = (
    ("system", "Be brief."),
    ("user", "2+2?"),
    ("assistant", "4"),
    ("user", "Sure?"),
    ("assistant", "Yes!"),
)
SETTINGS = SftSettings(rank=4, alpha=8, batch=4, micro_batch=2, learning_rate=1e-2, warmup=0.0, epochs=2)


def learned(base: Base, lesson: Lesson) -> str:
    text: str = base.tokenizer.decode([label for label in lesson.labels if label != -100])
    return text


def taught(base: Base, conversation: Sequence[tuple[str, str]]) -> Lesson:
    lesson = tokenize(base, conversation, 512)
    assert lesson is not None
    return lesson


def with_template(base: Base, template: str) -> Base:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    ending = learn_ending(Template(tokenizer))
    stops = base.stops if ending.token is None else base.stops | {ending.token}
    return dataclasses.replace(base, tokenizer=tokenizer, stops=stops, ending=ending)


def test_only_the_assistants_words_and_ends_of_turn_are_learned(base: Base) -> None:
    lesson = taught(base, DIALOGUE)
    assert learned(base, lesson) == "4<|im_end|>Yes!<|im_end|>"
    assert all(label in (-100, token) for token, label in zip(lesson.ids, lesson.labels, strict=True))
    messages = [{"role": role, "content": text} for role, text in DIALOGUE]
    assert base.tokenizer.decode(lesson.ids) == base.tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_lesson_begins_with_the_very_prompt_of_generation(base: Base) -> None:
    prompt = Chat(base.tokenizer, None, "turns", "").question("What is <|im_end|>?", 200).ids
    lesson = taught(base, [("user", "What is <|im_end|>?"), ("assistant", "A token.")])
    assert lesson.ids[: len(prompt)] == prompt
    assert set(lesson.labels[: len(prompt)]) == {-100}
    assert lesson.labels[len(prompt)] == lesson.ids[len(prompt)]


def test_special_tokens_in_an_answer_stay_text(base: Base) -> None:
    lesson = taught(base, [("user", "hi"), ("assistant", "a<|im_end|>b")])
    assert [label for label in lesson.labels if label in base.stops] == [base.tokenizer.eos_token_id]
    assert learned(base, lesson) == "a<|im_end|>b<|im_end|>"


def test_a_conversation_is_cut_to_length_and_left_out_when_no_answer_remains(base: Base) -> None:
    whole = taught(base, DIALOGUE)
    first = next(index for index, label in enumerate(whole.labels) if label != -100)
    cut = tokenize(base, DIALOGUE, first + 1)
    assert cut == Lesson(whole.ids[: first + 1], whole.labels[: first + 1])
    assert tokenize(base, DIALOGUE, first) is None


def test_a_template_that_never_ends_an_answer_is_refused(base: Base) -> None:
    endless = with_template(base, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(SpartaError, match="writes no end-of-turn token behind an answer"):
        tokenize(endless, DIALOGUE, 512)


def test_a_template_that_refuses_a_turn_is_named(base: Base) -> None:
    strict = with_template(base, "{{ raise_exception('no system turns') }}")
    with pytest.raises(SpartaError, match=r"refuses the turns system, user, .*no system turns"):
        tokenize(strict, DIALOGUE, 512)


@pytest.fixture(scope="module")
def lessons(base: Base) -> list[Lesson]:
    return [taught(base, [("user", f"{number}?"), ("assistant", "ab" * number)]) for number in range(1, 7)]


def plain_loss(base: Base, view: Any, lessons: Sequence[Lesson]) -> float:
    """Mean over all learned tokens, one conversation at a time and without padding."""
    losses = []
    with torch.no_grad():
        for lesson in lessons:
            logits = view(torch.tensor([lesson.ids])).logits[0, :-1]
            losses.append(F.cross_entropy(logits, torch.tensor(lesson.labels[1:]), reduction="none"))
    return float(torch.cat(losses).sum() / sum(label != -100 for each in lessons for label in each.labels))


def train(base: Base, lessons: Sequence[Lesson], **changes: Any) -> SftResult:
    settings = dataclasses.replace(SETTINGS, **changes)
    return train_adapter(base, lessons, settings, wrap=wrap_with_peft, seed=3, name="ada")[2]


def test_the_loss_is_the_mean_over_the_learned_tokens_of_a_whole_step(
    base: Base, lessons: list[Lesson]
) -> None:
    result = train(base, lessons, batch=6, epochs=1)
    # B begins at zero: the first loss is the bare base's.
    assert result.first_loss == pytest.approx(plain_loss(base, base.model, lessons), abs=2e-4)
    assert result.steps == 1


@pytest.mark.parametrize(("rows", "batch", "steps"), [(1, 4, 1), (4, 4, 1), (6, 32, 1), (5, 4, 2), (6, 3, 2)])
def test_few_rows_are_real_steps_at_the_usual_warm_up(
    base: Base, lessons: list[Lesson], rows: int, batch: int, steps: int
) -> None:
    """3 % of few steps is none: every one has a rate above 0."""
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        result = train(base, lessons[:rows], batch=batch, micro_batch=2, epochs=1, warmup=SftSettings.warmup)
    finally:
        hook.remove()
    assert result.steps == len(rates) == steps
    assert min(rates) > 0
    assert rates[0] == SETTINGS.learning_rate


def test_many_steps_warm_up_as_is_asked(base: Base, lessons: list[Lesson]) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        train(base, lessons, batch=1, micro_batch=1, epochs=1, warmup=0.4)
    finally:
        hook.remove()
    peak = SETTINGS.learning_rate
    assert rates == pytest.approx([peak * cosine(step, 6, 2 / 6) for step in range(6)])
    assert rates[:3] == pytest.approx([0, peak / 2, peak])


def gradients_of(
    base: Base, lessons: list[Lesson], **changes: Any
) -> tuple[list[list[torch.Tensor]], dict[str, torch.Tensor]]:
    """What AdamW gets in every step, and the adapter that comes out."""
    found: list[list[torch.Tensor]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        leaves = [leaf for group in optimizer.param_groups for leaf in group["params"]]
        found.append([leaf.grad.clone() for leaf in leaves if leaf.grad is not None])

    hook = register_optimizer_step_pre_hook(note)
    try:
        settings = dataclasses.replace(SETTINGS, **changes)
        bank, _, _ = train_adapter(base, lessons, settings, wrap=wrap_with_peft, seed=3, name="ada")
    finally:
        hook.remove()
    return found, dict(bank.tensors())


@pytest.mark.parametrize(("batch", "micro"), [(6, 4), (5, 3), (6, 9)])
def test_a_batch_that_is_no_multiple_of_a_pass_stays_that_batch(
    base: Base, lessons: list[Lesson], batch: int, micro: int
) -> None:
    """Steps, gradients and weights are those of whole batches, also where the last one is shorter."""
    rows = lessons * 2
    whole, expected = gradients_of(base, rows, batch=batch, micro_batch=12, epochs=1)
    found, weights = gradients_of(base, rows, batch=batch, micro_batch=micro, epochs=1)
    assert len(found) == len(whole) == -(-12 // batch)
    # Of a gradient that is nothing but rounding AdamW makes a step like any other: few weights stay apart.
    for one, other in zip(found, whole, strict=True):
        apart = torch.stack([(a - b).norm() for a, b in zip(one, other, strict=True)]).norm()
        assert apart < 1e-3 * torch.stack([b.norm() for b in other]).norm()
    moved = torch.stack([tensor.norm() for name, tensor in expected.items()]).norm()
    assert torch.stack([(weights[name] - expected[name]).norm() for name in expected]).norm() < 1e-2 * moved


def test_the_gradient_is_that_of_all_learned_tokens_alike(base: Base, lessons: list[Lesson]) -> None:
    [found], _ = gradients_of(base, lessons, batch=6, micro_batch=4, epochs=1)
    start = new_adapter("ada", base.decoder, SETTINGS.rank, SETTINGS.alpha, 3, base.name)
    bank = load_bank(base.decoder, [start])
    with adapter_view(base.model, base.tokenizer, bank.adapters[0], False, wrap_with_peft) as view:
        load(view, bank, "default")
        tokens = sum(label >= 0 for lesson in lessons for label in lesson.labels)
        for lesson in lessons:  # one at a time, unpadded
            logits = view(torch.tensor([lesson.ids])).logits[0, :-1]
            loss = F.cross_entropy(logits, torch.tensor(lesson.labels[1:]), reduction="sum") / tokens
            loss.backward()
        expected = [leaf.grad.clone() for leaf in view.parameters() if leaf.grad is not None]
    assert len(found) == len(expected) > 0
    length = torch.stack([grad.norm() for grad in expected]).norm()
    clipped = [grad / length.clamp(min=1) for grad in expected]  # to a length of 1, TRL's default
    # Both are in the order of the view's parameters.
    apart = torch.stack([(one - other).norm() for one, other in zip(found, clipped, strict=True)]).norm()
    assert length > 1
    assert apart < 1e-4


def test_training_learns_and_leaves_the_base_alone(base: Base, lessons: list[Lesson]) -> None:
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    result = train(base, lessons, epochs=4)
    assert result.last_loss < result.first_loss - 0.2
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "forward" not in vars(base.model)


def test_the_same_seed_gives_the_same_adapter_whatever_was_drawn_before(
    base: Base, lessons: list[Lesson]
) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        bank, _, _ = train_adapter(base, lessons, SETTINGS, wrap=wrap_with_peft, seed=seed, name="ada")
        return [tensor for _, tensor in bank.tensors()]

    first = weights(3)
    torch.rand(5)
    assert all(torch.equal(one, other) for one, other in zip(first, weights(3), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(first, weights(4), strict=True))


def test_a_training_that_moves_nothing_is_refused(base: Base, lessons: list[Lesson]) -> None:
    with pytest.raises(
        SpartaError, match=r"adapter 'ada': 4 optimizer steps at .* 0 moved nothing; raise --lr"
    ):
        train(base, lessons, learning_rate=0.0)


def test_trl_is_not_imported_before_unsloth_could_patch_it() -> None:
    held = vars(sys.modules[train_adapter.__module__]).values()
    assert not any(getattr(each, "__module__", "").startswith("trl") for each in held)


def test_what_does_not_fit_is_one_line(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trl.SFTTrainer.train", full)
    lessons = [taught(base, DIALOGUE)]
    with pytest.raises(SpartaError, match=r"adapter 'eve': out of memory: .*--micro-batch"):
        train_adapter(base, lessons, SETTINGS, wrap=wrap_with_peft, seed=1, name="eve")
