"""How time and memory grow with the tribe, the duels and the rank: one axis after another, the rest fixed.

    python benchmarks/scaling.py --json scaling.json     # CPU, one thread: 7 minutes; --quick is a smoke test

The base is the pocket tribe's, the adapters are random; questions and answers are equally long and no answer
ends by itself, so that one size alone changes. What should be linear in what:

    generation  in the duels (two responses each); not in the tribe, whose rows share one batch
    judging     in duels x (tribe - 2): every duel is read by all who do not fight in it
    training    in pairs x tribe, and a duel makes one pair at most
    memory      of training in the tribe, whose adapters learn side by side; nothing in the duels
    rank        adds operations to those of the base, so that time grows less than it does

Every figure comes from the engine's own calls. Time is the fastest of some runs, in CPU seconds of this
process. Memory, taken in a run of its own, is the peak of what operations have made and what is still alive,
beyond base and adapters. An exponent is the slope of log seconds (bytes) over log size with its standard
error; what is expected of the rank is the slope of the counted operations.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from card_base import MODULES
from card_tools import Live
from counting import Work, model_of, operations
from limits import packed
from rich.console import Console
from rich.table import Table
from side_by_side import circumstances, command_line, one_thread, print_circumstances

from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.shape import read_shape
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import base_path
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

QUESTION, ANSWER = 16, 16  # tokens
PLACES, BATCH_TOKENS = 50, 1536  # 50 duels of a tribe of 5 fill both
DPO = DpoSettings(learning_rate=1e-4, batch=10, micro_batch=2)
ENOUGH = 3.0  # CPU seconds after which no further run is begun


@dataclass(frozen=True)
class Scale:
    adapters: int = 10
    duels: int = 50
    rank: int = 16

    def units(self, phase: str) -> int:
        """Duels, duels times judges, or adapters times pairs."""
        return self.duels * {"generate": 1, "judge": self.adapters - 2, "train": self.adapters}[phase]


@dataclass(frozen=True)
class Axis:
    name: str
    """The field of ``Scale`` that grows."""
    sizes: tuple[int, ...]
    time: tuple[float, float, float] | None
    """Exponents that the phases should have; None: that of the counted operations."""
    memory: tuple[float, float, float] | None
    """None: nothing is said of it."""


AXES = (
    Axis("adapters", (2, 5, 10, 20), (0, 1, 1), (0, 0, 1)),
    Axis("duels", (50, 100, 200, 400, 800), (1, 1, 1), (0, 0, 0)),
    Axis("rank", (8, 16, 32, 64), None, None),
)
QUICK = {"adapters": (2, 4, 7, 10), "duels": (10, 20, 40), "rank": (8, 16, 32)}


@dataclass(frozen=True)
class Duel:
    fighters: tuple[str, str]
    judges: tuple[str, ...]
    question: tuple[int, ...]
    answers: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Measured:
    axis: str
    size: int
    """As the phase sees it: for judging, the tribe without the two that fight."""
    phase: str
    seconds: float
    units: int
    peak: int
    """Bytes."""
    adapters: int
    """Bytes of the bank."""
    operations: int
    """Counted, of one unit."""


def make_bank(base: Base, scale: Scale) -> Bank:
    names = [f"adapter-{number}" for number in range(scale.adapters)]
    adapters = [Adapter(name, scale.rank, 2.0 * scale.rank, False, MODULES) for name in names]
    bank = empty_bank(base.decoder, adapters, torch.float32)
    torch.manual_seed(0)
    for _, tensor in bank.tensors():
        tensor.normal_(std=0.02)
    return bank


def make_duels(scale: Scale) -> list[Duel]:
    rng = random.Random(0)
    names = [f"adapter-{number}" for number in range(scale.adapters)]

    def tokens(count: int, first: int = 16) -> tuple[int, ...]:
        return (first, *(rng.randrange(16, 256) for _ in range(count - 1)))

    duels = []
    for number in range(scale.duels):
        one, other = number % scale.adapters, (number + 1) % scale.adapters
        judges = tuple(name for index, name in enumerate(names) if index not in (one, other))
        question = tokens(QUESTION, first=rng.randrange(16, 256))
        duels.append(
            Duel((names[one], names[other]), judges, question, (tokens(ANSWER, 16), tokens(ANSWER, 17)))
        )
    return duels


def generation(base: Base, bank: Bank, duels: Sequence[Duel]) -> None:
    prompts = [Prompt(name, duel.question) for duel in duels for name in duel.fighters]
    generate(replace(base, stops=frozenset()), bank, prompts, Sampling(temperature=0), ANSWER, PLACES)


def judging(base: Base, bank: Bank, duels: Sequence[Duel]) -> None:
    prompts = [
        Prompt(judge, (*duel.question, *answer))
        for duel in duels
        for judge in duel.judges
        for answer in duel.answers
    ]
    tokens = Chat(base.tokenizer, None, "turns", "").score_tokens
    expected_scores(base, bank, prompts, tokens, 0.0, BATCH_TOKENS)


def training(base: Base, bank: Bank, duels: Sequence[Duel]) -> None:
    pairs = [TokenizedPair(duel.question, *duel.answers) for duel in duels]
    train(base.decoder, bank, pairs, DPO, seed=0, iteration=0, pad=0, on_step=lambda _: None)


CALLS = {"generate": generation, "judge": judging, "train": training}


def counted_operations(base: Base, rank: int, phase: str) -> int:
    """Of one unit of a phase; an optimizer's are not among them."""
    model = model_of(base, read_shape(base_path()), rank)
    if phase == "generate":
        length = QUESTION + ANSWER - 1  # the last token goes nowhere
        return 2 * operations(model, Work(length, ANSWER, ANSWER, length * (length + 1) // 2, 0, 1))
    if phase == "judge":
        written = len(Chat(base.tokenizer, None, "turns", "").score_tokens.prefix) + 1
        length, seen = packed(QUESTION, ANSWER + written)
        return operations(model, Work(length, 4, 4, seen, 0, 1))
    length, seen = packed(QUESTION, ANSWER - 1)
    reference = Work(length, length, 2 * ANSWER, seen, 0, 1)
    return operations(model, reference) + operations(model, replace(reference, backward=True))


def fastest(run: Callable[[], object], most: int) -> float:
    """CPU seconds of the fastest of ``most`` runs, of fewer where they take long."""
    times: list[float] = []
    while len(times) < most and sum(times) < ENOUGH:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def measure(base: Base, axis: Axis, scale: Scale, runs: int) -> Iterator[Measured]:
    """All phases at one scale; a tribe of two has no judges."""
    bank, duels = make_bank(base, scale), make_duels(scale)
    held = sum(tensor.nbytes for _, tensor in bank.tensors())
    for phase, call in CALLS.items():
        units = scale.units(phase)
        if not units:
            continue
        size = getattr(scale, axis.name) - (2 if axis.name == "adapters" and phase == "judge" else 0)
        work = partial(call, base, bank, duels)
        with Live() as live:
            work()
        each = counted_operations(base, scale.rank, phase)
        yield Measured(axis.name, size, phase, fastest(work, runs), units, live.peak, held, each)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of log value over log size by least squares, and its standard error; of three points or more."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - middle) ** 2 for each in x)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread
    rest = sum((b - height - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(rest / (len(x) - 2) / spread)


@dataclass(frozen=True)
class Fit:
    axis: str
    phase: str
    quantity: str
    slope: float
    error: float
    expected: float | None


def fits(axis: Axis, rows: Sequence[Measured]) -> Iterator[Fit]:
    for number, phase in enumerate(CALLS):
        own = [row for row in rows if row.phase == phase]
        sizes = [row.size for row in own]
        linear, _ = exponent(sizes, [row.operations for row in own])
        expected = axis.time[number] if axis.time else linear
        yield Fit(axis.name, phase, "time", *exponent(sizes, [row.seconds for row in own]), expected)
        memory = axis.memory[number] if axis.memory else None
        yield Fit(axis.name, phase, "memory", *exponent(sizes, [row.peak for row in own]), memory)


def show(console: Console, axis: Axis, scale: Scale, rows: Sequence[Measured], found: Sequence[Fit]) -> None:
    fixed = ", ".join(f"{name} {value}" for name, value in asdict(scale).items() if name != axis.name)
    table = Table(title=f"{axis.name} ({fixed})", title_justify="left")
    for title in ("phase", "size", "seconds", "ms a unit", "peak MB", "bank MB"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    for row in sorted(rows, key=lambda row: list(CALLS).index(row.phase)):
        table.add_row(
            row.phase,
            str(row.size),
            f"{row.seconds:.3f}",
            f"{row.seconds / row.units * 1e3:.2f}",
            f"{row.peak / 1e6:.1f}",
            f"{row.adapters / 1e6:.1f}",
        )
    console.print(table)
    for fit in found:
        expected = "" if fit.expected is None else f", expected {fit.expected:.2f}"
        line = f"{fit.phase:8} {fit.quantity:6} ~ size ^ {fit.slope:.2f} ± {fit.error:.2f}{expected}"
        console.print(line, highlight=False)
    console.print()


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="at most, of everything; the fastest counts")
    parser.add_argument("--quick", action="store_true", help="one run of small sizes: a smoke test")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs takes 1 or more, not {arguments.runs}")

    one_thread()
    console = Console()
    base = load_base(base_path(), torch.device("cpu"))
    standard = Scale(duels=10) if arguments.quick else Scale()
    measured: list[Measured] = []
    fitted: list[Fit] = []
    for axis in AXES:
        sizes = QUICK[axis.name] if arguments.quick else axis.sizes
        rows: list[Measured] = []
        for size in sizes:
            scale = replace(standard, **{axis.name: size})
            rows += measure(base, axis, scale, 1 if arguments.quick else arguments.runs)
        found = list(fits(axis, rows))
        show(console, axis, standard, rows, found)
        measured += rows
        fitted += found
    facts = circumstances()
    print_circumstances(console, facts)
    if arguments.json:
        report = {"rows": [asdict(row) for row in measured], "fits": [asdict(fit) for fit in fitted]}
        write_json(arguments.json, report | facts)


if __name__ == "__main__":
    main()
