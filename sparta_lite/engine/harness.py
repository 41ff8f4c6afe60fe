"""The tribe as models of lm-evaluation-harness: its model interface over the resident base and the bank.

Tokenisation, truncation, rolling windows and stop strings are those of the harness's own model for
transformers, so that its figures can be compared with others. Import this module only where the
package ``lm-eval`` is installed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.decode import Prompt, Until, generate
from sparta_lite.engine.likelihood import Continuation, likelihoods
from sparta_lite.engine.template import Template, now
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import key

MAX_GEN_TOKS = 256
"""New tokens where a task does not say how many, as in the harness."""

_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "typical_p": 1, "min_p": 0}
"""What a task may ask for because it changes nothing."""


@dataclass(frozen=True)
class _Decoding:
    """How a task wants its answers."""

    sampling: Sampling
    max_new_tokens: int
    stops: tuple[str, ...]


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """One adapter, or the bare base, as a model of the harness; many share one base and one bank.

    Args:
        base: the resident base.
        bank: the adapters.
        adapter: which one answers; None: the bare base.
        batch_tokens: tokens in one scoring pass.
        places: rows in one batch of answers.
        seed: of what a task lets the model sample.
        thinking: whether a chat template that offers it lets the model think first.
        date: what a chat template that prints the date prints.
    """

    def __init__(
        self,
        base: Base,
        bank: Bank,
        adapter: str | None,
        batch_tokens: int,
        places: int,
        seed: int,
        thinking: bool = False,
        date: datetime | None = None,
    ) -> None:
        super().__init__()
        self.base, self.bank, self.adapter = base, bank, adapter
        self.batch_tokens, self.places, self.seed, self.thinking = batch_tokens, places, seed, thinking
        self.tokenizer = base.tokenizer
        self.template = Template(base.tokenizer, date or now())
        self.max_length = base.context

    @property
    def eot_token_id(self) -> int:
        end: int | None = self.tokenizer.eos_token_id
        ends = sorted(self.base.stops) or self.base.ending.ids(self.template)
        return ends[0] if end is None else end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text of which every token is scored."""
        begin: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self.base.name.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.template.render(
            [(message["role"], message["content"]) for message in chat_history],
            answer=add_generation_prompt,
            open_end=not add_generation_prompt,
            thinking=self.thinking,
            advice="leave --harness-chat out",
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of ``string``; None adds what the tokenizer adds, unless the text brings it already."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **given))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log p of every continuation after its context, and whether it is greedy."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log p of every continuation, and whether it is greedy, from (anything, context, continuation).

        A context that is too long loses its beginning.
        """
        asked = []
        for number, (_text, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise SpartaError(
                    f"harness: request {number} has a continuation of {len(continuation)} tokens; the base "
                    f"scores 1 to {self.max_length}"
                )
            room = self.max_length + 1 - len(continuation)
            asked.append(Continuation(self.adapter, tuple(context[-room:]), tuple(continuation)))
        found = likelihoods(self.base, self.bank, asked, self.batch_tokens)
        return [(each.total, each.greedy) for each in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log p of whole texts, in windows of the base's context that predict every token once."""
        windows: list[tuple[int, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            rolled = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            windows += [(number, *utils.make_disjoint_window(window)) for window in rolled]
        totals = [0.0] * len(requests)
        for (number, *_rest), (total, _greedy) in zip(
            windows, self._loglikelihood_tokens(windows), strict=True
        ):
            totals[number] += total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to a stop string, which is cut off with what follows."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        asked: Counter[tuple[str, str]] = Counter()
        for settings, numbers in groups.items():
            decoding = self._decoding(json.loads(settings))
            prompts = []
            for number in numbers:
                context = requests[number].args[0]
                asked[settings, context] += 1  # a task may ask for several samples of one answer
                prompts.append(
                    Prompt(
                        self.adapter,
                        tuple(self.tok_encode(context)[-(self.max_length - decoding.max_new_tokens) :]),
                        key(self.seed, "harness", context, asked[settings, context]),
                    )
                )
            responses = generate(
                self.base,
                self.bank,
                prompts,
                decoding.sampling,
                decoding.max_new_tokens,
                self.places,
                until=self._until(decoding.stops),
            )
            for number, response in zip(numbers, responses, strict=True):
                texts[number] = postprocess_generated_text(response.text, list(decoding.stops), None)
        self.base.warm.release()  # scoring has need of the memory
        return texts

    def _decoding(self, given: Mapping[str, Any]) -> _Decoding:
        """What a task's ``generation_kwargs`` mean.

        Raises:
            SpartaError: they ask for what the engine does not do, or for more than its context.
        """
        settings = dict(normalize_gen_kwargs(dict(given), MAX_GEN_TOKS))
        length, temperature = settings.pop("max_gen_toks"), settings.pop("temperature", 0.0)
        sampled = settings.pop("do_sample") and temperature > 0
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(settings.pop("until", None), eos=end)
        sampling = Sampling(
            temperature=float(temperature) if sampled else 0.0,
            top_k=int(settings.pop("top_k", 0) or 0),
            top_p=float(settings.pop("top_p", 1.0) or 1.0),
        )
        if other := [name for name, value in settings.items() if _NEUTRAL.get(name, object()) != value]:
            raise SpartaError(
                f"harness: a task asks to generate with {', '.join(other)}, which this engine does not do; "
                "leave the task out"
            )
        if not 0 < length < self.max_length:
            raise SpartaError(
                f"harness: a task asks for {length} new tokens, the base's context has {self.max_length}; "
                "lower max_gen_toks in its YAML"
            )
        return _Decoding(sampling, length, tuple(stop for stop in stops if stop))

    def _until(self, stops: Sequence[str]) -> Until:
        """Whether the last tokens hold a stop string.

        A token is at least one byte, but where a tokenizer writes a space before the first: two more.
        """
        reach = max(len(stop.encode()) for stop in stops) + 2

        def reached(produced: Sequence[int]) -> bool:
            tail = self.tokenizer.decode(produced[-reach:], skip_special_tokens=False)
            return any(stop in tail for stop in stops)

        return reached
