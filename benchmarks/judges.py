"""How well a model judges: one pass beside sampled rounds, on right and wrong solutions of GSM8K.

    python benchmarks/judges.py --model MODEL --data test.jsonl --json judges.json

MODEL is a directory in transformers' form or a GGUF file; the data is the published test file of GSM8K
(openai/grade-school-math). Each of the first questions that the rule in ``slips.py`` serves comes with its
published solution and the same with one slip carried on to the end. The bare base scores both, in both
layouts: by one pass, read at temperature 1 and as rounds at .7, top-k 50 and top-p .95 would have it, and by
five such rounds, the first of which also stands for a single one. A pair counts where the right solution is
scored higher; a tie, and a pair of which one solution got no score, count half, as a coin would decide them.

Ten questions at a time are measured, and are in the file at once: the same command goes on from there, with
more ``--questions`` too. Rounds, which share the pass over their prompt here, may be asked about fewer of
them, or none. Seconds are those of this process on the CPU.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from pair_figures import print_summary, summary
from rich.console import Console
from rounds import sampled_rounds
from side_by_side import circumstances, command_line, one_thread, print_circumstances
from slips import Pair, make_pair
from torch import Tensor

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.engine import score
from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.verdict_text import read_verdict
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import PLAIN, Sampling
from sparta_lite.randomness import key

SEED = 0
LAYOUTS = ("turns", "message")
SAMPLING = Sampling(temperature=0.7, top_k=50, top_p=0.95)
ROUNDS = 5
PART = 10
"""Questions that are measured together: what a stopped measurement loses at most."""
BATCH_TOKENS = 1024
PLACES = 100
LIMIT = 2048
"""Tokens of a judge prompt."""


@dataclass(frozen=True)
class Judges:
    """A loaded base and how it is asked."""

    base: Base
    bank: Bank
    max_new_tokens: int

    def by_pass(self, layout: str, pairs: Sequence[Pair]) -> dict[str, Any]:
        """What one pass says of each solution, read in both ways, and its seconds."""
        chat, prompts = self._prompts(layout, pairs)
        with remembered_passes():
            start = time.process_time()
            plain = self._pass(chat, prompts, PLAIN)
            seconds = time.process_time() - start
            cut = self._pass(chat, prompts, SAMPLING)
        found = [
            {
                "row": pair.row,
                "plain": [_short(each.value) for each in plain[at : at + 2]],
                "cut": [_short(each.value) for each in cut[at : at + 2]],
                "mass": [_short(each.mass) for each in plain[at : at + 2]],
                "prefix": [_short(each.prefix) for each in plain[at : at + 2]],
            }
            for at, pair in zip(range(0, len(prompts), 2), pairs, strict=True)
        ]
        tokens = sum(len(prompt.ids) for prompt in prompts)
        return {"pairs": found, "seconds": {"pass": seconds}, "tokens": tokens}

    def by_rounds(self, layout: str, pairs: Sequence[Pair]) -> dict[str, Any]:
        """What each round says of each solution, and the seconds of reading and of writing."""
        _, prompts = self._prompts(layout, pairs)
        keys = [
            [key("judges", SEED, layout, pair.row, side, number) for number in range(ROUNDS)]
            for pair in pairs
            for side in range(2)
        ]
        ids = [prompt.ids for prompt in prompts]
        replies = sampled_rounds(self.base, self.bank, ids, keys, SAMPLING, self.max_new_tokens, PLACES)
        rounds = [[read_verdict(text).score for text in texts] for texts in replies.texts]
        found = [
            {"row": pair.row, "rounds": rounds[at : at + 2]}
            for at, pair in zip(range(0, len(prompts), 2), pairs, strict=True)
        ]
        times = {"reading": replies.reading, "writing": replies.writing}
        failed = [text[:100] for texts in replies.texts for text in texts if read_verdict(text).score is None]
        return {"pairs": found, "seconds": times, "unparsed": failed[:5]}

    def _prompts(self, layout: str, pairs: Sequence[Pair]) -> tuple[Chat, list[Prompt]]:
        request = JUDGE_REQUESTS[layout]
        chat = Chat(self.base.tokenizer, None, layout, request, ending=self.base.ending)  # type: ignore[arg-type]
        return chat, [self._prompt(chat, pair, text) for pair in pairs for text in (pair.right, pair.wrong)]

    def _prompt(self, chat: Chat, pair: Pair, text: str) -> Prompt:
        paper = chat.judge(pair.question, chat.text(text), LIMIT)
        if paper is None or paper.cut:
            sys.exit(f"error: the prompt of question {pair.row} is longer than {LIMIT} tokens")
        return Prompt(None, paper.ids)

    def _pass(self, chat: Chat, prompts: Sequence[Prompt], sampling: Sampling) -> list[score.Score]:
        tokens = chat.score_tokens
        return expected_scores(self.base, self.bank, prompts, tokens, 0.0, BATCH_TOKENS, sampling=sampling)


@contextmanager
def remembered_passes() -> Iterator[None]:
    """Reading the same prompts again takes no pass of the model."""
    plain, known = vars(score)["hidden_states"], {}

    def once(base: Base, bank: Bank, rows: Sequence[Any], following: str | None, keep: Tensor) -> Tensor:
        read = tuple(rows)
        if read not in known:
            known[read] = plain(base, bank, rows, following, keep)
        found: Tensor = known[read]
        return found

    vars(score)["hidden_states"] = once
    try:
        yield
    finally:
        vars(score)["hidden_states"] = plain


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def read_pairs(path: Path, count: int) -> list[Pair]:
    """The first pairs of the published file."""
    pairs: list[Pair] = []
    rows = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(rows):
        row = json.loads(line)
        if pair := make_pair(number, row["question"], row["answer"], SEED):
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    sys.exit(
        f"error: the rule serves {len(pairs)} of the {len(rows)} questions in {path}, fewer than {count}"
    )


def measure(
    judges: Judges, pairs: Sequence[Pair], asked: int, facts: dict[str, Any], path: Path | None
) -> dict[str, Any]:
    """The figures of all parts; those that the file has already are kept.

    Args:
        judges: the model.
        pairs: what it scores in one pass.
        asked: how many of them, from the first one on, it scores in rounds.
        facts: what is measured.
        path: of the file.
    """
    report = resumed(path, facts)
    done = {(part["method"], part["layout"], part["pairs"][0]["row"]) for part in report["parts"]}
    ways = (("pass", judges.by_pass, len(pairs)), ("rounds", judges.by_rounds, asked))
    for start in range(0, len(pairs), PART):
        for method, score_pairs, count in ways:
            for layout in LAYOUTS:
                some = pairs[start : start + PART]
                if start < count and (method, layout, some[0].row) not in done:
                    part = {"method": method, "layout": layout} | score_pairs(layout, some)
                    report["parts"].append(part)
                    _keep(report, path)
    report["summary"] = {
        layout: summary([part for part in report["parts"] if part["layout"] == layout]) for layout in LAYOUTS
    }
    _keep(report, path)
    return report


def _keep(report: dict[str, Any], path: Path | None) -> None:
    if path:
        write_json(path, report)


def resumed(path: Path | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What an earlier start left; nothing where there is no file.

    Raises:
        SpartaError: the file is of another measurement.
    """
    if path is None or not path.exists():
        return {**facts, "parts": []}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("model", "dtype", "quantization", "settings"):
        if report.get(name) != facts[name]:
            raise SpartaError(f"{path}: was measured with another {name}; name another file with --json")
    return report


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a directory in transformers' form, or a .gguf file")
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's published test.jsonl")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument(
        "--asked", type=int, help="questions that rounds are asked about; default: all; 0: none"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--quantization", choices=("none", "nf4"), default="none")
    parser.add_argument("--max-new-tokens", type=int, default=24, help="of a round")
    parser.add_argument("--name", help="of the model, in the file; default: that of --model")
    arguments = parser.parse_args()
    asked = arguments.questions if arguments.asked is None else arguments.asked
    for name, count in (("--questions", arguments.questions), ("--asked", asked)):
        if count < 0 or count % PART or not arguments.questions:
            parser.error(f"{name} takes {PART}, {2 * PART}, ..., not {count}")
    one_thread()
    pairs = read_pairs(arguments.data, arguments.questions)
    name = arguments.name or Path(arguments.model).name
    sampling = asdict(SAMPLING) | {"rounds": ROUNDS, "max_new_tokens": arguments.max_new_tokens, "seed": SEED}
    facts = {
        "model": name,
        "dtype": arguments.dtype,
        "quantization": arguments.quantization,
        "settings": sampling,
        "date": date.today().isoformat(),
    } | circumstances()
    console = Console(width=max(Console().width, 150))
    try:
        base = load_base(
            arguments.model, torch.device("cpu"), getattr(torch, arguments.dtype), arguments.quantization
        )
        # A bank holds at least one adapter; nobody asks for this one.
        unused = [Adapter("unused", 1, 1.0, False, ("self_attn.q_proj",))]
        judges = Judges(base, empty_bank(base.decoder, unused, torch.float32), arguments.max_new_tokens)
        report = measure(judges, pairs, asked, facts, arguments.json)
    except SpartaError as error:
        sys.exit(f"error: {error}")
    for layout in LAYOUTS:
        print_summary(console, layout, report["summary"][layout])
    print_circumstances(console, facts)


if __name__ == "__main__":
    main()
