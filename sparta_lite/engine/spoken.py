"""What a reply says for itself: without its thoughts, and without turns that the model wrote for others.

Chat models think between tags before they answer; a model that misses its end of turn goes on with a
question of its own, and answers that one too. Neither is its answer. Graders and sampled scores read this.
"""

from __future__ import annotations

import re

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
_THOUGHT = re.compile(rf"<({_TAGS})>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"</(?:{_TAGS})>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(rf"<(?:{_TAGS})>", re.IGNORECASE)

_SPECIAL = (
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_of_text|user|end|begin_of_text)\|>"
    r"|</s>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:eos|bos)>"
)
_ASKED = r"question|problem|exercise|instruction|task|input|user|human|prompt"
_NEXT_TURN = re.compile(
    rf"{_SPECIAL}"
    # "Question:", "**Problem 2:**", "Q3.", "Next question:" at the beginning of a line
    rf"|^[ \t#>*_]*(?:(?:next|another|new|follow-?up)[ \t]+)?(?:{_ASKED})\b[ \t]*#?\d*[ \t]*[*_]*:"
    r"|^[ \t#>*_]*Q[ \t]*\d*[ \t]*[*_]*[:.](?=[ \t*])"
    rf"|^[ \t#>*_]*(?:{_ASKED})[ \t]*#?\d+[ \t]*[*_]*[.)][ \t]"
    # "### Instruction", "## Question 2" as headings
    rf"|^[ \t]*\#+[ \t]*(?:{_ASKED})\b[ \t]*#?\d*[ \t]*$"
    # the roles of a chat template whose special tokens were left out
    r"|^(?:user|assistant|human|system)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_COURTESY = re.compile(
    r"\W*(?:(?:sure|certainly|of course|okay|ok|thank you|thanks)\b[^\n\d]{0,60}|[^\n\d]{0,60}:)?\W*",
    re.IGNORECASE,
)
"""What may stand before a question that is repeated first: nothing, or a few words."""


def spoken(text: str) -> str:
    """The part of a reply that answers the question it was given.

    A thought that was never closed leaves what stands before it. A reply may repeat its question, under a
    heading, before it answers: so a turn that says nothing gives way to the next.
    """
    return _own_turn(_without_thoughts(text))


def _without_thoughts(text: str) -> str:
    text = _THOUGHT.sub("\n", text)
    # The template may have opened the thought, and a reply that was cut off never closes it.
    text = _THOUGHT_ENDS.split(text)[-1]
    return _THOUGHT_BEGINS.split(text)[0]


def _own_turn(text: str) -> str:
    start = 0
    for marker in _NEXT_TURN.finditer(text):
        if not _COURTESY.fullmatch(text, start, marker.start()):
            return text[start : marker.start()]
        start = marker.start()
        if re.match(_SPECIAL, marker[0]):
            start = marker.end()
    return text[start:]
