from __future__ import annotations

import pytest

from sparta_lite.pocket import JUDGE_REQUEST, SCORE_PREFIX, Item, items
from sparta_lite.pocket.lessons import IGNORED, Lesson, Writer, collate, mistake
from sparta_lite.pocket.tokenizer import build_tokenizer
from sparta_lite.randomness import generator

tokenizer = build_tokenizer(0)
writer = Writer(tokenizer)
item = Item("french", "french: cat dog sun", "chat chien soleil", "chien soleil mer", ("chat mer soleil",))


def learned(lesson: Lesson) -> str:
    return str(tokenizer.decode([target for target in lesson.targets if target != IGNORED]))


def test_a_task_reads_as_the_chat_template_and_teaches_the_response_alone() -> None:
    lesson = writer.task(item, item.misconception)
    chat = [{"role": "user", "content": item.question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(lesson.tokens) == prompt + item.misconception
    assert learned(lesson) == f"{item.misconception}<|im_end|>"


def test_a_judgment_reads_as_turns_and_teaches_the_score() -> None:
    scores = set()
    for number in range(40):
        lesson = writer.marked(item, generator(number))
        text = tokenizer.decode(lesson.tokens)
        response, score = text.split("assistant\n")[1].split("<|im_end|>")[0], learned(lesson)
        chat = [(item.question, "user"), (response, "assistant"), (JUDGE_REQUEST, "user")]
        turns = [{"role": role, "content": content} for content, role in chat]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text.startswith(prompt + SCORE_PREFIX)
        assert (score.split("}")[0] in {"9", "10"}) == (response == item.answer)
        scores.add(score)
    assert scores == {f"{n}}}<|im_end|>" for n in (1, 2, 9, 10)}


@pytest.mark.parametrize("number", range(20))
def test_the_marked_fault_is_the_first_token_that_differs(number: int) -> None:
    rng = generator("faults", number)
    for asked in items("train", 20, number):
        response = mistake(asked, rng)
        lesson, right = writer.task(asked, response), writer.task(asked, asked.answer)
        assert not any(wrong for _, wrong in right.faults)
        for place, wrong in lesson.faults:
            wanted = [*right.tokens, tokenizer.eos_token_id][place]
            assert wrong == (lesson.tokens[place] != wanted)
        assert not any(wrong for _, wrong in lesson.faults[:-1])


def test_a_batch_is_padded_on_the_right_and_padding_is_no_target() -> None:
    short, long = Lesson([1, 2], [2, IGNORED]), Lesson([3, 4, 5], [IGNORED, 5, 6])
    tokens, targets = collate([short, long], pad=0)
    assert tokens.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert targets.tolist() == [[2, IGNORED, IGNORED], [IGNORED, 5, 6]]
