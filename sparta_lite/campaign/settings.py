"""Everything that a run can be told, with the published values as defaults."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.combat import KINDS, CurriculumSettings, Kind, MatchSettings, ReputationSettings
from sparta_lite.combat.matchmaking import MatchKind
from sparta_lite.combat.reputation import JudgeWeights, Order, PairWeights
from sparta_lite.data.tasks import TASKS, preset_of
from sparta_lite.engine.plan import Sizes
from sparta_lite.errors import SpartaError

POCKET = "pocket"
"""The embedded base, adapters or questions, where a path could stand."""

PRESET = re.compile(r"pocket|tulu-10|fresh-\d+")
"""What may stand where a path could, and is none."""

SIZES = {
    "places": "generation.places",
    "batch_tokens": "batch_tokens",
    "micro_batch": "training.micro_batch",
    "adapters_at_once": "training.adapters_at_once",
    "checkpointing": "training.checkpointing",
    "resident": "tribe.resident",
}
"""A plan's sizes and the settings that hold them."""

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
AboveZero = Annotated[float, Field(gt=0)]
ZeroOrMore = Annotated[float, Field(ge=0)]


def _no_overflow(value: float) -> float:
    if 0 < value < 0.01:
        raise ValueError(f"is {value}; give 0 for greedy, or at least 0.01")
    return value


def _enough_to_duel(size: int) -> int:
    if size < 3:
        raise ValueError(f"tribe.size is {size}; two fight and at least one judges, so give 3 or more")
    return size


Temperature = Annotated[float, Field(ge=0), AfterValidator(_no_overflow)]
Layout = Literal["turns", "message"]
Algorithm = Literal["sparta", "self-rewarding", "spin", "sppo"]
HostileKind = Literal["inverted", "loud", "garbage", "loud-garbage"]

_NAME = re.compile(r"\w[\w.-]*")


class Section(BaseModel):
    """A part of the configuration: typed, complete, unchangeable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Tribe(Section):
    adapters: str | dict[str, str] = Field(
        default=POCKET,
        description="'pocket', 'tulu-10' (the published ones), 'fresh-N' (N new ones), a directory of PEFT "
        "adapters, or a mapping of names to PEFT directories or hub ids",
    )
    size: Annotated[int, AfterValidator(_enough_to_duel)] | None = Field(
        default=None, description="Take only the first so many adapters; null takes all"
    )
    rank: Positive = Field(default=16, description="Of the adapters of 'fresh-N'")
    alpha: AboveZero = Field(default=32.0, description="Of the adapters of 'fresh-N'")
    resident: int | None = Field(
        default=None,
        ge=1,
        description="Adapters on the device at once, the others wait in host memory; null: as planned",
    )

    hostile: int = Field(
        default=0,
        ge=0,
        description="The last so many adapters spoil the duels, to see what the rules can stand",
    )
    hostile_kind: HostileKind = Field(
        default="inverted",
        description="'inverted' judges score 11 - s; 'loud' ones mirror and widen; 'garbage' is what they "
        "answer, and they judge as they think; 'loud-garbage' is both",
    )

    @field_validator("adapters", mode="before")
    @classmethod
    def _names_or_place(cls, value: object) -> object:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict) and all(
            isinstance(part, str) and part for part in (*value, *value.values())
        ):
            if len(value) < 3:
                raise ValueError(
                    f"tribe.adapters names {len(value)}; two fight and at least one judges, so name 3 or more"
                )
            if wrong := [name for name in value if not _NAME.fullmatch(name)]:
                raise ValueError(
                    f"tribe.adapters: {wrong[0]!r} cannot name a directory; use letters, digits and . _ -"
                )
            return value
        raise ValueError(
            f"tribe.adapters is {value!r}; give 'pocket', 'tulu-10', 'fresh-N', a directory, or a mapping of "
            "names to directories or hub ids"
        )


class Baseline(Section):
    adapter: str | None = Field(
        default=None,
        description="The one adapter that learns; null: the best by the evaluation before the first "
        "iteration, which favours the baseline",
    )


class Data(Section):
    path: str = Field(
        default=POCKET,
        min_length=1,
        description="'pocket', a JSON, JSONL, CSV, TSV or Parquet file, a directory of them, or a hub "
        "dataset such as openai/gsm8k; PATH#SPLIT picks one split",
    )
    task: str | None = Field(
        default=None,
        description="One of the paper's tasks in place of column and template, without a path from the hub: "
        f"{', '.join(TASKS)}",
    )
    subset: str | None = Field(default=None, description="Which configuration of a hub dataset")
    split: str | None = Field(default=None, description="Which split; null: the only one, or 'train'")
    filter: str | None = Field(
        default=None,
        description="Keep rows whose column has this value, or has not: 'level!=Level 5 and lang=en'",
    )
    column: str | None = Field(default=None, description="The file's column that holds the instruction")
    template: str | None = Field(
        default=None,
        description='In place of column: text over a row\'s columns, such as "{instruction}\\n{input}"',
    )

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if self.task is not None:
            try:
                preset_of(self.task)
            except SpartaError as error:
                raise ValueError(f"data.task: {error}") from error
            if self.column is not None or self.template is not None:
                raise ValueError("data.task brings its own columns; remove data.column and data.template")
            return self
        if self.path == POCKET and (self.column is not None or self.template is not None):
            raise ValueError("data.column and data.template belong to a file; give data.path or remove them")
        if self.path == POCKET and (self.subset or self.split or self.filter):
            raise ValueError("data.subset, split, filter: belong to a file or task; give one or remove them")
        if self.path != POCKET and (self.column is None) == (self.template is None):
            raise ValueError("data: a file needs exactly one of data.column and data.template, or data.task")
        return self


class Matchmaking(Section):
    alpha: Share = Field(
        default=MatchSettings.alpha,
        description="Probability that an opponent is anyone; 1 is random matching",
    )
    k: Positive = Field(
        default=MatchSettings.k, description="Otherwise the opponent is one of the k nearest in reputation"
    )
    kind: MatchKind = Field(
        default=MatchSettings.kind,
        description="'nearest', or 'annealed': in place of the k nearest, first far ones, at last near ones",
    )
    gap_deviation: AboveZero = Field(
        default=MatchSettings.gap_deviation,
        description="Kind 'annealed': how strictly, in units of the tribe's largest gap in reputation",
    )

    def settings(self) -> MatchSettings:
        return MatchSettings(**self.model_dump())


class Instructions(Section):
    kind: Literal["uniform", "exp3"] = Field(
        default=CurriculumSettings.kind,
        description="'uniform' walks through all of them; 'exp3' draws more of those whose duels were "
        "neither too easy nor too hard and had the gap between scores that the run is looking for",
    )
    group_words: int = Field(
        default=CurriculumSettings.group_words,
        ge=0,
        description="Kind 'exp3' learns about all instructions together that begin with the same so many "
        "words; 0: about each alone",
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=CurriculumSettings.gamma, description="Share of the draws that go by chance"
    )
    difficulty_weight: Share = Field(
        default=CurriculumSettings.difficulty_weight, description="Weight of middling scores in the reward"
    )
    gap_weight: Share = Field(
        default=CurriculumSettings.gap_weight, description="Weight of the gap between the scores in it"
    )
    gap_start: Share = Field(
        default=CurriculumSettings.gap_start, description="The gap looked for at first; scores count 0 to 1"
    )
    gap_end: Share = Field(default=CurriculumSettings.gap_end, description="The gap looked for at last")
    gap_deviation: AboveZero = Field(
        default=CurriculumSettings.gap_deviation, description="How strictly it is looked for"
    )

    def settings(self) -> CurriculumSettings:
        return CurriculumSettings(**self.model_dump())


class Generation(Section):
    temperature: Temperature = Field(default=0.7, description="0 is greedy")
    top_k: int = Field(default=50, ge=0, description="0 cuts nothing off")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, description="1 cuts nothing off")
    max_new_tokens: Positive = Field(default=512, description="Where a response is cut off, in tokens")
    max_prompt_tokens: Positive = Field(
        default=1024, description="Longest instruction, chat template included"
    )
    places: int | None = Field(
        default=None, ge=1, description="Rows in one batch; no result depends on it; null: as planned"
    )
    system: str | None = Field(default=None, description="System prompt; null leaves it to the chat template")
    thinking: bool = Field(default=False, description="Let models think first whose chat template offers it")


class Judge(Section):
    mode: Literal["expected", "sampled"] = Field(
        default="expected",
        description="'expected' reads the expected score from one forward pass; 'sampled' asks in rounds",
    )
    layout: Layout = Field(
        default="message",
        description="'message' quotes question and response in one message; 'turns' shows them as turns",
    )
    request: str | None = Field(
        default=None,
        description="What asks for a score; with {question} and {response} in the layout 'message'; null: "
        "a text of ours",
    )
    minimum_mass: Share = Field(
        default=0.5, description="Mode 'expected': a judge that gives all scores less probability has no vote"
    )
    max_tokens: Positive = Field(default=2048, description="Longest judge prompt; the response is cut to fit")
    rounds: Positive = Field(default=5, description="Mode 'sampled': how often each judge is asked")
    max_new_tokens: Positive = Field(
        default=256, description="Mode 'sampled': where a round is cut off, in tokens"
    )
    forced: bool = Field(
        default=False,
        description="Mode 'sampled': begin every reply with '{\"score\": ', for models too small to write it",
    )
    temperature: Temperature = Field(default=0.7, description="Mode 'sampled'; 0 is greedy")
    top_k: int = Field(default=50, ge=0, description="Mode 'sampled'; 0 cuts nothing off")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="Mode 'sampled'; 1 cuts nothing off"
    )

    @model_validator(mode="after")
    def _slots(self) -> Judge:
        found = [slot for slot in ("{question}", "{response}") if slot in self.wording]
        if self.layout == "message" and len(found) < 2:
            raise ValueError(
                "judge.request: the layout 'message' needs {question} and {response} in it; add them, give "
                "null for a text of ours, or set judge.layout to 'turns'"
            )
        if self.layout == "turns" and found:
            raise ValueError(
                f"judge.request: the layout 'turns' fills in no {found[0]}; remove it, give null for a "
                "text of ours, or set judge.layout to 'message'"
            )
        return self

    @property
    def wording(self) -> str:
        """The text that asks for a score."""
        return JUDGE_REQUESTS[self.layout] if self.request is None else self.request


class Reputation(Section):
    kind: Kind = Field(
        default="reliability",
        description=f"The rules: {', '.join(KINDS)}; the default is ours, the published one is 'paper'",
    )
    order: Order | None = Field(
        default=None,
        description="'sequential': fighter 2's change sees fighter 1's; 'simultaneous'; null: as kind says",
    )
    scale: AboveZero | None = Field(default=None, description="Divides kappa; null: as kind says")
    pair_weights: PairWeights | None = Field(
        default=None,
        description="Reputations behind a pair: 'at-duel' or 'after-iteration'; null: as kind says",
    )
    judge_weights: JudgeWeights | None = Field(
        default=None,
        description="What weighs the judges: 'reputation', 'uniform', or 'reliability', how far each one's "
        "votes agree with the others'; null: as kind says",
    )
    memory: Positive = Field(
        default=ReputationSettings.memory,
        description="Iterations that 'bradley-terry' and 'reliability' look at, the present one included",
    )
    virtual_duels: AboveZero = Field(
        default=ReputationSettings.virtual_duels,
        description="Drawn duels that 'bradley-terry' adds for every adapter",
    )
    kappa_0: ZeroOrMore = Field(default=ReputationSettings.kappa_0, description="Size of a change, at first")
    kappa_min: ZeroOrMore = Field(
        default=ReputationSettings.kappa_min, description="Size of a change, at least"
    )
    decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=ReputationSettings.decay,
        description="kappa = max(kappa_min, kappa_0 * decay ** (n / decay_steps))",
    )
    decay_steps: AboveZero = Field(
        default=ReputationSettings.decay_steps, description="n counts an iteration's duels from 1"
    )
    eps: ZeroOrMore = Field(
        default=ReputationSettings.eps, description="Least effect of the gap between two reputations"
    )
    floor: AboveZero = Field(default=ReputationSettings.floor, description="No reputation falls under it")
    window: int = Field(
        default=ReputationSettings.window, ge=2, description="Deviation is that of so many last changes"
    )
    min_deviation: AboveZero = Field(default=ReputationSettings.min_deviation, description="Least deviation")
    start: Literal["fair", "uneven"] = Field(
        default=ReputationSettings.start,
        description="'fair' starts all alike; 'uneven' spreads them by prior",
    )
    start_reputation: AboveZero = Field(
        default=ReputationSettings.start_reputation, description="Mean at the start"
    )
    start_deviation: AboveZero = Field(
        default=ReputationSettings.start_deviation, description="Everyone's deviation at the start"
    )
    start_spread: AboveZero = Field(
        default=ReputationSettings.start_spread, description="Standard deviation of an 'uneven' start"
    )
    prior: dict[str, float] | None = Field(
        default=None, description="A score per adapter, for an 'uneven' start"
    )

    @model_validator(mode="after")
    def _prior_for_uneven(self) -> Reputation:
        if self.start == "uneven" and self.prior is None:
            raise ValueError("reputation.prior: an 'uneven' start needs a score per adapter")
        return self

    def settings(self) -> ReputationSettings:
        return ReputationSettings(**self.model_dump())


class Pairs(Section):
    minimum_margin: ZeroOrMore = Field(
        default=0.0, description="A duel whose scores lie within it makes no preference pair"
    )


class Training(Section):
    trainer: Literal["auto", "tribe", "unsloth", "trl"] = Field(
        default="auto",
        description="'tribe' trains many adapters at once, 'unsloth' and 'trl' one after another; 'auto': "
        "unsloth on a GPU where it is installed, else tribe",
    )
    beta: AboveZero = Field(default=0.1, description="Strength of the pull to the adapter's own start")
    learning_rate: AboveZero = Field(default=1e-6, description="At its peak; cosine down to 0")
    weight_decay: ZeroOrMore = Field(default=1e-5, description="Of AdamW")
    warmup: Share = Field(default=0.1, description="Share of the steps in which the learning rate rises")
    epochs: Positive = Field(default=1, description="Passes over an iteration's pairs")
    batch: Positive = Field(default=16, description="Pairs in one optimizer step")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Pairs in one forward pass; changes memory and time, not gradients; null: as planned",
    )
    adapters_at_once: int | None = Field(
        default=None, ge=1, description="Adapters that 'tribe' trains side by side; null: as planned"
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        default="adamw", description="'adamw-8bit' keeps its moments in 8 bits; it needs bitsandbytes"
    )
    checkpointing: bool | None = Field(
        default=None, description="Compute activations twice to save memory; null: as planned"
    )
    max_grad_norm: AboveZero = Field(default=1.0, description="Gradients are clipped to it, per adapter")
    sft_weight: ZeroOrMore = Field(
        default=0.0, description="Weight of the chosen answer's mean negative log-likelihood in the loss"
    )
    dtype: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Of the matrix products: 'fp32' or 'bf16'"
    )
    reuse_logprobs: bool | None = Field(
        default=None,
        description="Take the loss's reference from generating and judging, where they read the same tokens; "
        "null: where everything is computed in fp32, for 16 bits round each pass in another way",
    )
    max_length: Positive = Field(
        default=512, description="Tokens of prompt and answer; the answer is cut to fit"
    )
    max_prompt: Positive = Field(default=256, description="Tokens of the prompt; its beginning is cut off")
    save_every: Positive = Field(
        default=50, description="Optimizer steps between two saves inside the training"
    )

    @model_validator(mode="after")
    def _room_for_an_answer(self) -> Training:
        if self.max_prompt >= self.max_length:
            raise ValueError(
                f"training.max_prompt is {self.max_prompt}; leave room for an answer: less than "
                f"training.max_length, {self.max_length}"
            )
        return self


class Evaluation(Section):
    tasks: list[str] | None = Field(
        default=None,
        description="What is measured: names of tasks; null: the one that the instructions come from, if any",
    )
    paths: dict[str, str] = Field(
        default={}, description="A task's file in the published form, where it is not to come from the hub"
    )
    items: int = Field(default=300, ge=0, description="Held-out questions per task; 0 = nothing is measured")
    every: Positive = Field(
        default=1, description="Iterations between two evaluations; first and last always count"
    )
    max_new_tokens: Positive = Field(default=512, description="Where an answer is cut off, in tokens")


class Config(Section):
    """All settings of a run. The defaults are the published ones; ``base: pocket`` has a preset."""

    base: str = Field(
        default=POCKET,
        min_length=1,
        description="'pocket', a directory with a model and tokenizer, or a hub id such as "
        "Qwen/Qwen2.5-7B-Instruct",
    )
    quantization: Literal["nf4", "none"] = Field(
        default="nf4", description="'nf4' holds the base in 4 bits, doubly quantised; 'none' in dtype"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="What the base computes in; 'auto' chooses by the device"
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with a base from the hub"
    )
    algorithm: Algorithm = Field(
        default="sparta",
        description="'sparta', or a baseline in which one adapter alone learns, in as many duels: "
        "'self-rewarding' judges its own, 'spin' prefers reference answers to its own, 'sppo' is judged by "
        "the others and learns by a squared loss",
    )
    seed: int = Field(default=0, ge=0, description="All randomness follows from it")
    iterations: Positive = Field(default=8, description="Rounds of duels and training")
    duels: Positive = Field(default=1000, description="Duels per iteration")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="'auto' takes a GPU where there is one"
    )
    vram: str | None = Field(
        default=None, description="Memory to plan for, such as '24GB'; null: what the device has free"
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; null leaves it to torch")
    checkpoint: Positive = Field(default=100, description="Duels between two saves inside a phase")
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens in one scoring pass; no result depends on it; null: as planned",
    )
    trackers: list[Literal["trackio", "tensorboard", "wandb"]] = Field(
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
            raise SpartaError("the sizes of the batches are not planned yet; begin with `sparta-lite run`")
        return Sizes(**sizes)

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
