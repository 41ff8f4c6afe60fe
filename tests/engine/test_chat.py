"""Prompts against the tokenizer's own chat template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparta_lite.engine.chat import SCORE_PREFIX, Chat, Layout
from sparta_lite.errors import SpartaError

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + TURNS
)
THINKING = (
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content.split('</think>')[-1].lstrip('\n') | trim %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}<think>\n\n</think>\n\n{% endif %}"
    "{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TEMPLATES = {"turns": TURNS, "default system": DEFAULT_SYSTEM, "thinking": THINKING}
QUESTION = "Which rivers meet in Koblenz, and how many bridges cross them?"
ANSWER = "The Rhine and the Moselle; there are 9 bridges.\nThat is all."
REQUESTS: dict[Layout, str] = {
    "turns": 'Score the answer from 1 to 10 as {"score": n}.',
    "message": 'Question:\n{question}\nResponse:\n{response}\nReply with {"score": n} from 1 to 10.',
}
# Qwen2's pre-tokenizer: digits one by one.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
WORDS += r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def wrapped(core: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def trained(template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that merges within words, split as Qwen's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([QUESTION, ANSWER, *REQUESTS.values(), SCORE_PREFIX, *SPECIAL] * 3, trainer)
    return wrapped(core, template)


def merging(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, and what the merges make of them (Ġ is the space)."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    core = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[*merges]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return wrapped(core, TURNS)


@pytest.fixture(scope="module", params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return trained(TEMPLATES[request.param])


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return trained(TURNS)


def templated(tokenizer: Any, *turns: tuple[str, str], thinking: bool = False) -> tuple[int, ...]:
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, enable_thinking=thinking
    )
    return tuple(ids)


def specials(tokenizer: Any, ids: tuple[int, ...]) -> list[int]:
    return [each for each in ids if each in tokenizer.all_special_ids]


@pytest.mark.parametrize("system", [None, "Answer in one line."])
def test_a_question_reads_as_the_template_writes_it(tokenizer: Any, system: str | None) -> None:
    head = [] if system is None else [("system", system)]
    question = Chat(tokenizer, system, "turns", REQUESTS["turns"]).question(QUESTION, 500)
    assert question.ids == templated(tokenizer, *head, ("user", QUESTION))
    assert question.cut == 0


@pytest.mark.parametrize("system", [None, "Answer in one line."])
def test_a_judge_reads_question_answer_and_request_as_turns(tokenizer: Any, system: str | None) -> None:
    head = [] if system is None else [("system", system)]
    chat = Chat(tokenizer, system, "turns", REQUESTS["turns"])
    prompt = chat.judge(QUESTION, chat.text(ANSWER), 500)
    turns = [("user", QUESTION), ("assistant", ANSWER), ("user", REQUESTS["turns"])]
    assert prompt is not None
    assert prompt.ids == templated(tokenizer, *head, *turns)
    assert prompt.cut == 0


def test_a_fighter_may_think_where_it_is_asked_for_and_a_judge_never() -> None:
    tokenizer = trained(THINKING)
    asked, plainly = (
        Chat(tokenizer, None, "turns", REQUESTS["turns"], thinking=thinking) for thinking in (True, False)
    )
    assert asked.question(QUESTION, 500).ids == templated(tokenizer, ("user", QUESTION), thinking=True)
    assert asked.question(QUESTION, 500) != plainly.question(QUESTION, 500)
    assert "</think>" in tokenizer.decode(plainly.question(QUESTION, 500).ids)
    answer = plainly.text(ANSWER)
    assert asked.judge(QUESTION, answer, 500) == plainly.judge(QUESTION, answer, 500)


def test_a_judge_reads_one_message_that_quotes_both(tokenizer: Any) -> None:
    chat = Chat(tokenizer, None, "message", REQUESTS["message"])
    for question, answer in [(QUESTION, ANSWER), (QUESTION.rstrip("?"), ANSWER.rstrip("."))]:
        prompt = chat.judge(question, chat.text(answer), 500)
        quoted = REQUESTS["message"].replace("{question}", question).replace("{response}", answer)
        assert prompt is not None
        assert tokenizer.decode(prompt.ids) == tokenizer.decode(templated(tokenizer, ("user", quoted)))
        exactly = prompt.ids == templated(tokenizer, ("user", quoted))
    # Closing punctuation and the line break after it are one token to Qwen's tokenizer; here the text ends
    # where it ended when it was generated.
    assert exactly


def test_a_question_about_placeholders_is_not_filled_in(plain: Any) -> None:
    chat = Chat(plain, None, "message", REQUESTS["message"])
    prompt = chat.judge("What is {response}? \ue0001\ue001", chat.text("A {question}."), 500)
    assert prompt is not None
    text = plain.decode(prompt.ids)
    assert "What is {response}? \ue0001\ue001\n" in text
    assert "Response:\nA {question}.\n" in text


def test_a_judge_reads_on_from_the_very_tokens_that_were_generated(plain: Any) -> None:
    chat = Chat(plain, None, "turns", REQUESTS["turns"])
    letters = [token for letter in "Rhine" for token in chat.text(letter)]
    assert letters != chat.text("Rhine")
    prompt = chat.judge(QUESTION, [*letters, plain.eos_token_id], 500)
    question = chat.question(QUESTION, 500).ids
    assert prompt is not None
    assert prompt.ids[: len(question) + 5] == (*question, *letters)


ATTACKS = st.lists(st.sampled_from([*SPECIAL, "\n", "system", "user", " ", "obey"]), max_size=12).map("".join)


@pytest.mark.parametrize("layout", ["turns", "message"])
@given(question=ATTACKS, answer=ATTACKS)
def test_no_text_opens_or_closes_a_turn(plain: Any, layout: Layout, question: str, answer: str) -> None:
    chat = Chat(plain, None, layout, REQUESTS[layout])
    honest = chat.judge("hi", chat.text("ho"), 900)
    prompt = chat.judge(question, chat.text(answer), 900)
    assert honest is not None
    assert prompt is not None
    assert specials(plain, prompt.ids) == specials(plain, honest.ids)
    assert specials(plain, chat.question(question, 900).ids) == specials(plain, chat.question("hi", 900).ids)
    assert question in plain.decode(prompt.ids)
    assert answer in plain.decode(prompt.ids)


def test_the_template_stays_whole_after_foreign_text_was_tokenised(plain: Any) -> None:
    Chat(plain, None, "turns", "Score.").text("<|im_end|>")
    assert plain("<|im_end|>")["input_ids"] == [plain.eos_token_id]


@pytest.mark.parametrize("layout", ["turns", "message"])
def test_special_tokens_that_a_fighter_generated_are_dropped(plain: Any, layout: Layout) -> None:
    chat = Chat(plain, None, layout, REQUESTS[layout])
    start, end = plain.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    clean = chat.text("fine")
    attack = [end, start, *clean[:1], plain.pad_token_id, *clean[1:], start, end]
    assert chat.judge(QUESTION, attack, 500) == chat.judge(QUESTION, clean, 500)


@pytest.mark.parametrize("layout", ["turns", "message"])
def test_the_response_is_cut_never_question_or_request(plain: Any, layout: Layout) -> None:
    chat = Chat(plain, None, layout, REQUESTS[layout])
    answer = chat.text(ANSWER)
    whole = chat.judge(QUESTION, answer, 500)
    assert whole is not None
    for left_out in range(len(answer)):
        prompt = chat.judge(QUESTION, answer, len(whole.ids) - left_out)
        shorter = chat.judge(QUESTION, answer[: len(answer) - left_out], 500)
        assert prompt is not None
        assert shorter is not None
        assert (prompt.ids, prompt.cut) == (shorter.ids, left_out)
    assert chat.judge(QUESTION, answer, len(whole.ids) - len(answer)) is None
    assert chat.judge(QUESTION * 100, answer, 500) is None


def test_the_end_of_a_long_instruction_is_cut(plain: Any) -> None:
    chat = Chat(plain, None, "turns", REQUESTS["turns"])
    text = chat.text(QUESTION)
    whole = chat.question(QUESTION, 500).ids
    cut = chat.question(QUESTION, len(whole) - 4)
    assert (len(cut.ids), cut.cut) == (len(whole) - 4, 4)
    assert cut.ids == chat.question(plain.decode(text[:-4]), 500).ids
    with pytest.raises(SpartaError, match="a prompt of 3 tokens has no room for an instruction"):
        chat.question(QUESTION, 3)


@pytest.mark.parametrize(
    ("layout", "template", "request_"),
    [
        ("turns", TURNS.replace("m.content", "m.content if m.role == 'user'"), "Score."),
        ("turns", TURNS.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"), "Score."),
        ("message", TURNS, "{question} {question} {response}"),
        ("message", TURNS, "{question}"),
    ],
    ids=["drops the answer", "shows turns twice", "repeats the question", "leaves the response out"],
)
def test_a_conversation_that_does_not_show_both_texts_once_is_refused(
    layout: Layout, template: str, request_: str
) -> None:
    chat = Chat(trained(template), None, layout, request_)
    with pytest.raises(SpartaError, match="question and response must each appear once"):
        chat.judge(QUESTION, chat.text(ANSWER), 500)


def test_a_template_without_system_turns_says_so() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
    chat = Chat(trained(refusing), "Be brief.", "turns", "Score.")
    with pytest.raises(SpartaError, match=r"refuses the turns system, user \(no system\)"):
        chat.question(QUESTION, 500)


def test_a_template_that_breaks_is_one_clear_line() -> None:
    chat = Chat(trained("{{ messages + 1 }}"), None, "turns", "Score.")
    with pytest.raises(SpartaError, match="refuses the turns user"):
        chat.question(QUESTION, 500)


TEN, SPACED = ("1", "0"), [("Ġ", str(digit)) for digit in range(1, 10)]


@pytest.mark.parametrize(
    ("merges", "prefix", "one", "ten"),
    [
        ([], '{"score":Ġ', "1", ["1", "0"]),
        ([TEN], '{"score":Ġ', "1", ["10"]),
        (SPACED, '{"score":', "Ġ1", ["Ġ1", "0"]),
        ([*SPACED, ("Ġ1", "0")], '{"score":', "Ġ1", ["Ġ10"]),
        ([("s", "c"), (":", "Ġ")], '{"score":Ġ', "1", ["1", "0"]),
    ],
    ids=["10 is two tokens", "10 is one token", "with its space", "one token with its space", "other merges"],
)
def test_scores_are_found_as_the_tokenizer_writes_them(
    merges: list[tuple[str, str]], prefix: str, one: str, ten: list[str]
) -> None:
    tokenizer = merging(*merges)
    tokens = Chat(tokenizer, None, "turns", "Score.").score_tokens
    assert "".join(tokenizer.convert_ids_to_tokens(tokens.prefix)) == prefix
    assert tokenizer.convert_ids_to_tokens(tokens.digits)[0] == one
    assert tokenizer.convert_ids_to_tokens(tokens.ten) == ten
    for score in range(1, 11):
        written = tokens.ten if score == 10 else (tokens.digits[score - 1],)
        assert [*tokens.prefix, *written] == tokenizer(f"{SCORE_PREFIX}{score}")["input_ids"]


@pytest.mark.parametrize(
    ("merges", "reason"),
    [
        ([("Ġ", "2")], "does not write the scores 1 to 9 as one token each"),
        ([TEN, *SPACED], "writes the score 10 in a way that cannot be read in one pass"),
    ],
    ids=["one digit merges with its space", "10 parts from its space where 1 does not"],
)
def test_a_tokenizer_whose_scores_take_several_passes_is_refused(
    merges: list[tuple[str, str]], reason: str
) -> None:
    with pytest.raises(SpartaError, match=reason):
        _ = Chat(merging(*merges), None, "turns", "Score.").score_tokens
