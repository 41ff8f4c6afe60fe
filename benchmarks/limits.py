"""Decoding, judging and learning against the floors of the machine that they run on.

    python benchmarks/limits.py --json limits.json     # CPU, one thread: a minute

Two floors stand under every phase: its operations over the rate of the machine's best matrix product, and
the bytes that have to move over the rate at which the machine copies. Both rates are measured, the first in
what the base computes in. Counted is what the work needs: no padding, of attention the pairs of positions
that see each other, of the last layer the states that are read. Before anything is timed the same arithmetic
over what is computed has to give the number of operations that torch counts on the small tribe. A decode
step is the difference of a long and a short run of ``generate``, over the steps between them. Speed without
LoRA is that of the same work on the bare base. Seconds are those of this process; on a card
``first_minutes.py`` does the same.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from counting import Model, Work, counted, model_of, moved, operations
from rich.console import Console
from rich.table import Table
from side_by_side import (
    Seconds,
    circumstances,
    command_line,
    medians,
    one_thread,
    print_circumstances,
    require,
)
from tiny_tribe import PAD, make_tribe

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.shape import read_shape
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import backward
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings


@dataclass(frozen=True)
class Sizes:
    """Of the three phases; every row of a batch is equally long."""

    rows: int
    """Decoded at once, of all ten adapters."""
    prompt: int
    steps: int
    duels: int
    """That one judge reads in one pass: two responses behind one question each."""
    question: int
    """Tokens that the two prompts have in common."""
    answer: int
    """Tokens of a response and the request behind it, in judging, and of a completion in training."""
    batch: int
    """Pairs in a DPO step."""
    micro_batch: int


FIRST = 3
"""Steps of ``generate`` that the short run makes, too: on a card one runs as it is and the next is recorded,
which a difference to a run of none would count as steps of the long one."""
SMALL = Sizes(rows=80, prompt=64, steps=32, duels=10, question=80, answer=48, batch=8, micro_batch=1)


@dataclass(frozen=True)
class Setup:
    """A tribe, what it is asked, and how its work is counted."""

    base: Base
    bank: Bank
    model: Model
    sizes: Sizes

    @property
    def prompts(self) -> list[Prompt]:
        count = self.sizes.rows // len(self.bank.adapters)
        rng = random.Random(1)
        names = [adapter.name for adapter in self.bank.adapters for _ in range(count)]
        return [Prompt(name, _tokens(rng, self.sizes.prompt)) for name in names]

    @property
    def papers(self) -> list[Prompt]:
        rng = random.Random(2)
        judge = self.bank.adapters[0].name
        questions = [_tokens(rng, self.sizes.question) for _ in range(self.sizes.duels)]
        # Not one token more in common, so that the rows are as long as they are counted.
        return [
            Prompt(judge, (*question, side, *_tokens(rng, self.sizes.answer - 1)))
            for question in questions
            for side in range(2)
        ]

    @property
    def pairs(self) -> list[TokenizedPair]:
        rng = random.Random(3)
        lengths = self.sizes.question, self.sizes.answer, self.sizes.answer
        return [TokenizedPair(*(_tokens(rng, length) for length in lengths)) for _ in range(self.sizes.batch)]


def _tokens(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(2, 256) for _ in range(count))


def decode(setup: Setup, steps: int, bare: bool = False) -> None:
    """The prompts' first token and ``steps`` more."""
    base = replace(setup.base, stops=frozenset())
    prompts = [replace(each, adapter=None if bare else each.adapter) for each in setup.prompts]
    generate(base, setup.bank, prompts, Sampling(temperature=0), 1 + steps, setup.sizes.rows)


def judge(setup: Setup, bare: bool = False) -> None:
    papers = [replace(each, adapter=None if bare else each.adapter) for each in setup.papers]
    tokens = Chat(setup.base.tokenizer, None, "turns", "").score_tokens
    expected_scores(setup.base, setup.bank, papers, tokens, 0.0, 1 << 20)


def learn(setup: Setup, bank: Bank) -> None:
    """Forward and backward of one step; ``bank``: from ``trainable``."""
    pairs = setup.pairs
    settings = DpoSettings(micro_batch=setup.sizes.micro_batch, max_length=1 << 20, max_prompt=1 << 19)
    reference = torch.zeros(len(bank.adapters), len(pairs), 2, device=bank.device)
    for _, leaf in bank.tensors():
        leaf.grad = None
    backward(setup.base.decoder, bank, pairs, reference, settings, PAD)


def works(setup: Setup, computed: bool = False) -> dict[str, Work]:
    """What every phase needs; ``decode`` is one step behind ``FIRST``, of mean length.

    Args:
        setup: the tribe and the sizes.
        computed: count what is computed beyond that: attention in whole squares where a mask or the order
            hides half of them, and in training the last layer of tokens whose states nobody reads.
    """
    sizes, adapters = setup.sizes, len(setup.bank.adapters)
    reach = sizes.prompt + FIRST + (sizes.steps + 1) / 2  # the mean length of what a step's query sees
    cached = round(sizes.rows * reach)
    written = len(Chat(setup.base.tokenizer, None, "turns", "").score_tokens.prefix) + 1
    read = 2 * (
        written + 1
    )  # of both answers, the states before each forced token, the score and a second digit
    judged, halves = packed(sizes.question, sizes.answer + written)
    learned, learned_halves = packed(sizes.question, sizes.answer - 1)
    return {
        "decode": Work(sizes.rows, sizes.rows, sizes.rows, cached, cached, adapters),
        "judge": Work(
            tokens=sizes.duels * judged,
            kept=sizes.duels * read,
            heads=sizes.duels * read,
            pairs=sizes.duels * (judged**2 if computed else halves),
            cached=0,
            adapters=1,
        ),
        "learn": Work(
            tokens=adapters * sizes.batch * learned,
            kept=adapters * sizes.batch * (learned if computed else 2 * sizes.answer - 1),
            heads=adapters * sizes.batch * 2 * sizes.answer,
            pairs=adapters * sizes.batch * (learned**2 if computed else learned_halves),
            cached=0,
            adapters=adapters,
            backward=True,
        ),
    }


def packed(shared: int, tail: int) -> tuple[int, int]:
    """Tokens of two tails behind what they share, and the pairs of positions of which one sees the other."""
    seen = shared * (shared + 1) // 2 + 2 * (tail * shared + tail * (tail + 1) // 2)
    return shared + 2 * tail, seen


def require_counted(setup: Setup) -> None:
    """Torch counts the same operations, on a CPU."""
    group = trainable(setup.bank)
    steps = setup.sizes.steps
    found = {
        "decode": (counted(lambda: decode(setup, FIRST + steps)) - counted(lambda: decode(setup, FIRST)))
        / steps,
        "judge": counted(lambda: judge(setup)),
        "learn": counted(lambda: learn(setup, group)),
    }
    for name, work in works(setup, computed=True).items():
        ours = operations(setup.model, work)
        require(
            abs(ours - found[name]) < 1e-3 * ours, f"{name}: {ours:,} operations and torch's {found[name]:,}"
        )


def small(path: Path) -> Setup:
    tribe = make_tribe(path)
    shape = read_shape(path)
    return Setup(tribe.base, tribe.bank, model_of(tribe.base, shape, tribe.bank.rank), SMALL)


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of 10 runs, by the clock."""
    run()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate() -> float:
    """Operations a second of the best square matrix product."""

    def rate(size: int) -> float:
        square = torch.randn(size, size)
        return 2 * size**3 / best(lambda: square @ square)

    return max(map(rate, (256, 512, 1024, 2048)))


def copy_rate(weights: int) -> float:
    """Bytes read and written a second, of a buffer as large as the weights or of 256 MiB: the
    weights of a small base stay in a cache, whose bandwidth is then the one that counts."""

    def rate(size: int) -> float:
        source = torch.ones(size, dtype=torch.uint8)
        target = torch.empty_like(source)
        return 2 * size / best(lambda: target.copy_(source))

    return max(map(rate, {min(weights, 1 << 30), 1 << 28}))


def measure(setup: Setup, repeats: int) -> Seconds:
    """Seconds of every phase, and of decoding and judging on the bare base."""
    group, steps = trainable(setup.bank), setup.sizes.steps
    sides: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(setup, FIRST + steps),
        "first": lambda: decode(setup, FIRST),
        "decode, bare": lambda: decode(setup, FIRST + steps, bare=True),
        "first, bare": lambda: decode(setup, FIRST, bare=True),
        "judge": lambda: judge(setup),
        "judge, bare": lambda: judge(setup, bare=True),
        "learn": lambda: learn(setup, group),
    }
    for run in sides.values():
        run()
    found = medians(sides, repeats)
    for name in ("", ", bare"):
        found[f"decode{name}"] = (found[f"decode{name}"] - found.pop(f"first{name}")) / steps
    return found


def report(setup: Setup, seconds: Seconds, rate: float, bandwidth: float) -> dict[str, dict[str, float]]:
    """Phase -> its figures; a floor over the seconds is the share of that rate which is reached."""
    rows = {}
    for name, work in works(setup).items():
        needed, carried = operations(setup.model, work), moved(setup.model, work)
        rows[name] = {
            "seconds": seconds[name],
            "operations": needed,
            "bytes": carried,
            "operations_floor": needed / rate,
            "bytes_floor": carried / bandwidth,
            "share_of_product_peak": needed / rate / seconds[name],
            "share_of_copy_bandwidth": carried / bandwidth / seconds[name],
        }
        if f"{name}, bare" in seconds:
            rows[name]["share_of_lora_free_speed"] = seconds[f"{name}, bare"] / seconds[name]
    return rows


def print_report(console: Console, rows: dict[str, dict[str, float]]) -> None:
    """The larger of the two floors is the one that counts, and so is the larger of the shares."""
    table = Table()
    floors = ("floor:\nproducts", "floor:\nbytes")
    titles = ("ms", *floors, "of product\npeak", "of copy\nbandwidth", "of LoRA-free\nspeed")
    for column in ("phase", *titles):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, row in rows.items():
        times = (row[key] * 1e3 for key in ("seconds", "operations_floor", "bytes_floor"))
        shares = ("share_of_product_peak", "share_of_copy_bandwidth", "share_of_lora_free_speed")
        reached = (f"{row[key]:.2f}" if key in row else "-" for key in shares)
        table.add_row(name, *(f"{each:.2f}" for each in times), *reached)
    console.print(table)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of every phase; the median counts")
    parser.add_argument("--quick", action="store_true", help="one repeat: a smoke test")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats takes 1 or more, not {arguments.repeats}")
    repeats = 1 if arguments.quick else arguments.repeats

    one_thread()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        setup = small(Path(directory) / "small")
        require_counted(setup)
        rate, bandwidth = product_rate(), copy_rate(setup.model.weights)
        rows = report(setup, measure(setup, repeats), rate, bandwidth)

    sizes, tribe = setup.sizes, len(setup.bank.adapters)
    print_report(console, rows)
    for line in (
        f"decode: a step of {sizes.rows} rows of {tribe} adapters, {sizes.prompt} + {sizes.steps} tokens",
        f"judge: one judge, {sizes.duels} duels, {sizes.question} + 2 x {sizes.answer} tokens",
        f"learn: {tribe} adapters x {sizes.batch} pairs, {sizes.question} + 2 x {sizes.answer} tokens",
        f"fp32: {rate / 1e9:,.1f} GFLOP/s, {bandwidth / 1e9:,.1f} GB/s copied",
    ):
        console.print(line, highlight=False)
    facts = circumstances()
    print_circumstances(console, facts)
    if arguments.json:
        facts |= {"operations_a_second": rate, "bytes_a_second": bandwidth, "repeats": repeats}
        write_json(arguments.json, facts | {"sizes": asdict(sizes), "phases": rows})


if __name__ == "__main__":
    main()
