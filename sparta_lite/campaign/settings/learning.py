"""The sections of what follows the duels: training, and what is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sparta_lite.campaign.settings.section import (
    AboveZero,
    Count,
    CountOrZero,
    Few,
    Section,
    Share,
    Switch,
    Width,
    ZeroOrMore,
)


class Training(Section):
    trainer: Literal["auto", "tribe", "unsloth", "trl"] = Field(
        default="auto",
        description="'tribe' trains many adapters at once, 'unsloth' and 'trl' one after another; 'auto': "
        "on a GPU where unsloth is installed whichever the plan finds faster, else tribe",
    )
    beta: Width = Field(default=0.1, description="Strength of the pull to the adapter's own start")
    learning_rate: float = Field(default=1e-6, ge=1e-12, le=10, description="At its peak; cosine down to 0")
    weight_decay: float = Field(default=1e-5, ge=0, le=10, description="Of AdamW")
    warmup: Share = Field(
        default=0.1,
        description="Share of the steps in which the learning rate rises; the first of them stands at 0, "
        "but a single step never does",
    )
    epochs: Few = Field(default=1, description="Passes over an iteration's pairs")
    batch: Count = Field(default=16, description="Pairs in one optimizer step")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Pairs in one forward pass; changes memory and time, not gradients; null: as planned",
    )
    adapters_at_once: int | None = Field(
        default=None, ge=1, le=1000, description="Adapters that 'tribe' trains side by side; null: as planned"
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
    reuse_logprobs: Switch = Field(
        default=None,
        description="Take the loss's reference from generating and judging, where they read the same tokens; "
        "null: where everything is computed in fp32, for 16 bits round each pass in another way (by less "
        "than half of what they round away of a gradient anyway)",
    )
    max_length: Count = Field(
        default=512, description="Tokens of prompt and answer; the answer is cut to fit"
    )
    max_prompt: Count = Field(default=256, description="Tokens of the prompt; its beginning is cut off")
    save_every: Count = Field(default=50, description="Optimizer steps between two saves inside the training")

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
    items: CountOrZero = Field(
        default=300, description="Held-out questions per task; 0 = nothing is measured"
    )
    every: Few = Field(
        default=1, description="Iterations between two evaluations; first and last always count"
    )
    max_new_tokens: Count = Field(default=512, description="Where an answer is cut off, in tokens")
