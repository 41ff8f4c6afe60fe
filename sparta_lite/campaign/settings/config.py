"""The sections together, with what belongs to none."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sparta_lite.campaign.settings.duels import (
    Generation,
    Instructions,
    Judge,
    Matchmaking,
    Pairs,
    Reputation,
)
from sparta_lite.campaign.settings.inputs import POCKET, Baseline, Data, Tribe
from sparta_lite.campaign.settings.learning import Evaluation, Training
from sparta_lite.campaign.settings.section import NAME, PATH, Count, Few, Section, Switch, parse_memory
from sparta_lite.engine.work import Sizes
from sparta_lite.errors import SpartaError

SIZES = {
    "places": "generation.places",
    "batch_tokens": "batch_tokens",
    "micro_batch": "training.micro_batch",
    "adapters_at_once": "training.adapters_at_once",
    "checkpointing": "training.checkpointing",
    "resident": "tribe.resident",
}
"""A plan's sizes and the settings that hold them."""

_UNPLANNED = "the sizes of the batches are not planned yet; begin with `sparta-lite run`"

Tracker = Literal["trackio", "tensorboard", "wandb"]
Algorithm = Literal["sparta", "self-rewarding", "spin", "sppo"]


def _each_once(names: list[Tracker]) -> list[Tracker]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"trackers names {twice!r} twice; name each once")
    return names


class Engine(Section):
    unpack: Switch = Field(
        default=None,
        description="Hold the values of 4-bit matrices in dtype, unpacked once when they are loaded: more "
        "memory, less time; null: as planned, on a GPU where it fits and is faster",
    )


class Config(Section):
    """All settings of a run; ``base: pocket`` has a preset.

    The constants of the rules, of sampling and of DPO are the paper's by default. What weighs the judges, how
    they are read and in which layout, and the base in 4 bits are ours.
    """

    base: str = Field(
        default=POCKET,
        min_length=1,
        max_length=PATH,
        description="'pocket', a directory with a model and tokenizer, a GGUF file, or a hub id such as "
        "Qwen/Qwen2.5-7B-Instruct",
    )
    quantization: Literal["nf4", "none"] = Field(
        default="nf4",
        description="'nf4' holds the base in 4 bits, doubly quantised; 'none' in dtype, as a base with the "
        "gated delta rule (Qwen3.5) is held where it fits and nothing is said",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="What the base computes in; 'auto' takes bfloat16 on a card that has it, and on a CPU "
        "where a measurement at the start finds its products 1.5 times as fast",
    )
    engine: Engine = Field(default=Engine(), description="How the base is held while it computes")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with a base from the hub"
    )
    algorithm: Algorithm = Field(
        default="sparta",
        description="'sparta', or a baseline in which one adapter alone learns, in as many duels: "
        "'self-rewarding' judges its own, 'spin' prefers reference answers to its own, 'sppo' is judged by "
        "the others and learns by a squared loss",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="All randomness follows from it")
    iterations: Few = Field(default=8, description="Rounds of duels and training")
    duels: Count = Field(default=1000, description="Duels per iteration")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="'auto' takes a GPU where there is one"
    )
    vram: str | None = Field(
        default=None,
        max_length=NAME,
        description="Memory to plan for, such as '24GB'; null: what the device has free",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; null leaves it to torch"
    )
    checkpoint: Count | None = Field(
        default=None,
        description="Duels between two saves inside a phase, in judging 100 at most; null: 100, on a card as "
        "many as are planned to be answered in five minutes",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Tokens in one scoring pass; no result depends on it; null: as planned",
    )
    trackers: Annotated[list[Tracker], AfterValidator(_each_once)] = Field(
        default=[],
        description="What else is told of the run's curves: trackio, tensorboard, wandb (offline)",
    )
    tribe: Tribe = Field(default=Tribe(), description="The adapters that compete")
    baseline: Baseline = Field(default=Baseline(), description="For an algorithm other than 'sparta'")
    data: Data = Field(default=Data(), description="The instructions that they fight over")
    instructions: Instructions = Field(
        default=Instructions(), description="Which of the instructions an iteration takes"
    )
    matchmaking: Matchmaking = Field(default=Matchmaking(), description="Who fights whom")
    generation: Generation = Field(default=Generation(), description="How the fighters answer")
    judge: Judge = Field(default=Judge(), description="How the others judge")
    reputation: Reputation = Field(default=Reputation(), description="How a duel moves two reputations")
    pairs: Pairs = Field(default=Pairs(), description="Which duels make a preference pair")
    training: Training = Field(
        default=Training(), description="DPO of every adapter over all pairs of an iteration"
    )
    evaluation: Evaluation = Field(default=Evaluation(), description="What is measured, never learned from")

    def at(self, key: str) -> Any:
        """The setting of a dotted key."""
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value

    @property
    def sizes(self) -> Sizes:
        """What the batches of a planned run are limited to.

        Raises:
            SpartaError: one is still open, for the run was not planned.
        """
        sizes = {name: self.at(key) for name, key in SIZES.items()}
        if None in sizes.values():
            raise SpartaError(_UNPLANNED)
        return Sizes(**sizes)

    @property
    def part(self) -> int:
        """``checkpoint`` of a planned run.

        Raises:
            SpartaError: it is still open, for the run was not planned.
        """
        if self.checkpoint is None:
            raise SpartaError(_UNPLANNED)
        return self.checkpoint

    @field_validator("vram")
    @classmethod
    def _is_memory(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                parse_memory(text)
        except SpartaError as error:
            raise ValueError(error) from error
        return text

    @model_validator(mode="after")
    def _win_rates_need_our_trainer(self) -> Config:
        if self.algorithm == "sppo" and self.training.trainer in ("unsloth", "trl"):
            raise ValueError(
                f"training.trainer: {self.training.trainer} does not take SPPO's win rates; set it to tribe"
            )
        return self

    @model_validator(mode="after")
    def _pocket_fits_pocket(self) -> Config:
        if self.base != POCKET and self.tribe.adapters == POCKET:
            raise ValueError(
                "tribe.adapters: the pocket adapters fit the pocket base alone; give a directory of PEFT "
                "adapters for your base"
            )
        return self
