"""What ends an answer: learned from what the chat template writes behind one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from sparta_lite.engine.template import Template, TurnsError, pieces, slot
from sparta_lite.errors import SpartaError, shown


@dataclass(frozen=True)
class Ending:
    """What a template writes behind an answer to end it: a token, or plain text, or nothing."""

    token: int | None = None
    text: str = ""
    """Where no token of its own ends an answer."""

    def ids(self, template: Template) -> list[int]:
        """The tokens that an answer is ended with; none where there is no end."""
        return template.tokens(self.text) if self.token is None else [self.token]

    def reached(self, tokenizer: Any, produced: Sequence[int]) -> bool:
        """Whether the last tokens of an answer hold the end that is plain text."""
        if not self.text:
            return False
        # A token is at least one byte, but where a tokenizer writes a space before the first: two more.
        tail = produced[-len(self.text.encode()) - 2 :]
        return self.text in tokenizer.decode(tail, skip_special_tokens=False)

    def cut(self, text: str) -> str:
        """An answer's text without the end that is plain text."""
        return text.partition(self.text)[0] if self.text else text


def learn_ending(template: Template) -> Ending:
    """What ends an answer, from what the template writes behind one.

    The last answer of a conversation tells: some templates write another token behind those before it.
    Where no token stands behind the last one, one before the next turn does: a model that was trained with
    such a template goes on with that.

    Raises:
        SpartaError: the template does not come to an end.
    """
    last, between = (_behind_answer(template, roles) for roles in (_TURNS[:2], _TURNS))
    added = template.tokenizer.added_tokens_decoder
    for written in (last, between):
        for token in template.tokens(written):
            if token in added and added[token].content.strip():
                return Ending(token=token)
    end = last.rstrip()  # line breaks alone end nothing
    return Ending(text=end if between.startswith(end) or not between else "")


def stops(model: Any, tokenizer: Any, ending: Ending) -> frozenset[int]:
    """Tokens that end an answer: the template's own, and those that the model names.

    A model that was trained before it got its template still ends a text with its own; no answer holds it.

    Args:
        model: of transformers.
        tokenizer: its own. What ends a turn is made special in it, like any other token that is no text.
        ending: from ``learn_ending``.

    Raises:
        SpartaError: nothing ends an answer.
    """
    found = _named(model, tokenizer)
    if ending.token is not None:
        _mark_special(tokenizer, ending.token)
        found |= {ending.token}
    if not found and not ending.text:
        raise SpartaError(
            "base: its chat template writes no end of turn behind an answer, and neither model nor tokenizer "
            "names an end-of-turn token (eos_token_id); set one"
        )
    return found


def name_ending(model: Any, tokenizer: Any) -> None:
    """Have a model's own generation end where its chat template ends an answer, if it does not yet."""
    ending, named = learn_ending(Template(tokenizer)), _named(model, tokenizer)
    if ending.token is not None and ending.token not in named:
        model.generation_config.eos_token_id = [ending.token, *sorted(named)]


def notices(model: Any, tokenizer: Any, ending: Ending) -> tuple[str, ...]:
    """What people should hear of how answers end: where model and template do not say the same."""
    named = _named(model, tokenizer)
    names = " and ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(named)))) or "nothing"
    if ending.token is not None:
        if ending.token in named:
            return ()
        own = tokenizer.convert_ids_to_tokens(ending.token)
        return (
            f"base: its chat template ends an answer with {own}, the model names {names} as its end "
            "(eos_token_id); both end an answer",
        )
    if ending.text:
        return (
            f"base: its chat template ends an answer with the text {ending.text.strip()[:40]!r}, which is no "
            "token of its own; an answer ends where it stands",
        )
    return (
        f"base: its chat template writes no end of turn behind an answer; answers end with {names}, which "
        "the model names (eos_token_id), or at the most tokens that they may have",
    )


def _named(model: Any, tokenizer: Any) -> frozenset[int]:
    """Raises SpartaError where something else than tokens is named. Below 0 there is none: some say so."""
    found: set[int] = set()
    for named in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        ids = named if isinstance(named, list | tuple) else [] if named is None else [named]
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            raise SpartaError(
                f"base: eos_token_id is {shown(named)}, which is no token; correct generation_config.json or "
                "config.json"
            )
        found.update(each for each in ids if each >= 0)
    return frozenset(found)


def _mark_special(tokenizer: Any, token: int) -> None:
    """Have a tokenizer treat one of its added tokens as special, as an end of turn is: it is not text."""
    entry = tokenizer.added_tokens_decoder[token]
    if not entry.special:
        flags = {name: getattr(entry, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        tokenizer.add_tokens([AddedToken(entry.content, special=True, **flags)], special_tokens=True)


_TURNS = ("user", "assistant", "user")


def _behind_answer(template: Template, roles: Sequence[str]) -> str:
    """What stands between the answer and the next content; nothing where the template refuses such turns."""
    try:
        text = template.render([(role, slot(number)) for number, role in enumerate(roles)])
    except TurnsError:
        return ""
    found = pieces(text)
    return str(found[found.index(1) + 1]) if 1 in found else ""
