"""The sections of a duel: its instruction, its fighters, their answers, the votes, and what follows."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from sparta_lite.campaign.settings.section import (
    TEXT,
    AboveZero,
    Count,
    CountOrZero,
    Few,
    FewOrZero,
    Section,
    Share,
    SmallShare,
    SomeShare,
    Temperature,
    Width,
    ZeroOrMore,
)
from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.combat import KINDS, CurriculumSettings, Kind, MatchSettings, ReputationSettings
from sparta_lite.combat.matchmaking import MatchKind
from sparta_lite.combat.reputation import JudgeWeights, Order, PairWeights

Layout = Literal["turns", "message"]


class Drawn(NamedTuple):
    """The arguments of ``kernels.sampling.Sampling``, without loading torch."""

    temperature: float
    top_k: int
    top_p: float


PUBLISHED = Drawn(0.7, 50, 0.95)
"""How the published judges are sampled."""
UNTOUCHED = Drawn(1.0, 0, 1.0)
"""The model's own distribution."""


class Instructions(Section):
    kind: Literal["uniform", "exp3"] = Field(
        default=CurriculumSettings.kind,
        description="'uniform' walks through all of them; 'exp3' draws more of those whose duels were "
        "neither too easy nor too hard and had the gap between scores that the run is looking for",
    )
    group_words: FewOrZero = Field(
        default=CurriculumSettings.group_words,
        description="Kind 'exp3' learns about all instructions together that begin with the same so many "
        "words; 0: about each alone",
    )
    gamma: SomeShare = Field(
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
    gap_deviation: Width = Field(
        default=CurriculumSettings.gap_deviation, description="How strictly it is looked for"
    )

    def settings(self) -> CurriculumSettings:
        return CurriculumSettings(**self.model_dump())


class Matchmaking(Section):
    alpha: Share = Field(
        default=MatchSettings.alpha,
        description="Probability that an opponent is anyone; 1 is random matching",
    )
    k: Few = Field(
        default=MatchSettings.k, description="Otherwise the opponent is one of the k nearest in reputation"
    )
    kind: MatchKind = Field(
        default=MatchSettings.kind,
        description="'nearest', or 'annealed': in place of the k nearest, first far ones, at last near ones",
    )
    gap_deviation: Width = Field(
        default=MatchSettings.gap_deviation,
        description="Kind 'annealed': how strictly, in units of the tribe's largest gap in reputation",
    )

    def settings(self) -> MatchSettings:
        return MatchSettings(**self.model_dump())


class Generation(Section):
    temperature: Temperature = Field(default=0.7, description="0 is greedy")
    top_k: CountOrZero = Field(default=50, description="0 cuts nothing off")
    top_p: SomeShare = Field(default=0.95, description="1 cuts nothing off")
    max_new_tokens: Count = Field(default=512, description="Where a response is cut off, in tokens")
    max_prompt_tokens: Count = Field(default=1024, description="Longest instruction, chat template included")
    places: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Rows in one batch; no result depends on it; null: as planned",
    )
    system: str | None = Field(
        default=None, max_length=TEXT, description="System prompt; null leaves it to the chat template"
    )
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
        max_length=TEXT,
        description="What asks for a score; with {question} and {response} in the layout 'message'; null: "
        "a text of ours",
    )
    minimum_mass: Share = Field(
        default=0.5, description="Mode 'expected': a judge that gives all scores less probability has no vote"
    )
    minimum_prefix: SmallShare = Field(
        default=0.0,
        description="Mode 'expected': a judge that would write '{\"score\": ' first by itself with less "
        "probability has no vote; 0 hears all of them, and judge.forced turns it off",
    )
    max_tokens: Count = Field(default=2048, description="Longest judge prompt; the response is cut to fit")
    rounds: Few = Field(default=5, description="Mode 'sampled': how often each judge is asked")
    max_new_tokens: Count = Field(
        default=256, description="Mode 'sampled': where a round is cut off, in tokens"
    )
    forced: bool = Field(
        default=False,
        description="For models too small to write '{\"score\": ': every reply begins with it in mode "
        "'sampled' as well, and whether they would have written it does not matter",
    )
    temperature: Temperature | None = Field(
        default=None,
        description="Of sampled rounds, or of those whose limit mode 'expected' reads; 0 is greedy; null: "
        "0.7 and 1",
    )
    top_k: CountOrZero | None = Field(
        default=None,
        description="Of the same; 0 cuts nothing off; null: 50 and 0",
    )
    top_p: SomeShare | None = Field(
        default=None,
        description="Of the same; 1 cuts nothing off; null: 0.95 and 1",
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
    def in_rounds(self) -> Drawn:
        """How sampled rounds are drawn."""
        return self._drawn(PUBLISHED)

    @property
    def in_one_pass(self) -> Drawn:
        """How those rounds are drawn whose limit one forward pass reads."""
        return self._drawn(UNTOUCHED)

    @property
    def least_prefix(self) -> float:
        """The probability of the forced prefix under which a judge has no vote."""
        return 0.0 if self.forced else self.minimum_prefix

    def _drawn(self, usual: Drawn) -> Drawn:
        return Drawn(
            usual.temperature if self.temperature is None else self.temperature,
            usual.top_k if self.top_k is None else self.top_k,
            usual.top_p if self.top_p is None else self.top_p,
        )

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
    memory: Few = Field(
        default=ReputationSettings.memory,
        description="Iterations that 'bradley-terry' and 'reliability' look at, the present one included",
    )
    virtual_duels: float = Field(
        default=ReputationSettings.virtual_duels,
        ge=0.01,
        le=1e6,
        description="Drawn duels that 'bradley-terry' adds for every adapter",
    )
    kappa_0: ZeroOrMore = Field(default=ReputationSettings.kappa_0, description="Size of a change, at first")
    kappa_min: ZeroOrMore = Field(
        default=ReputationSettings.kappa_min, description="Size of a change, at least"
    )
    decay: SomeShare = Field(
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
        default=ReputationSettings.window,
        ge=2,
        le=100_000,
        description="Deviation is that of so many last changes",
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
    prior: dict[str, Annotated[float, Field(ge=-1e9, le=1e9)]] | None = Field(
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
    minimum_margin: float = Field(
        default=0.0, ge=0, le=9, description="A duel whose scores lie within it makes no preference pair"
    )
