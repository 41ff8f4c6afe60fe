"""TRL's trainer over optimizer steps that are planned beforehand. Importing this imports TRL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import proxy

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import PrinterCallback, Trainer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from sparta_lite.training.phase import slices

Rows = Sequence[dict[str, list[int]]]
"""Of one optimizer step: ``input_ids`` and ``labels``, -100 where nothing is learned."""


class PlannedTrainer(SFTTrainer):  # type: ignore[misc]
    """One row of its data is one optimizer step, whose rows are read in passes of any size.

    Left to itself TRL takes so many equal passes for a step: a batch that is no multiple of a pass becomes
    another one.
    """

    def __init__(
        self, view: Any, tokenizer: Any, plan: Sequence[Rows], micro_batch: int, arguments: SFTConfig
    ) -> None:
        """``arguments``: of batches of one row, in order, none of whose columns is dropped."""
        self._plan = plan
        self._micro_batch = micro_batch
        self.losses: list[float] = []
        """Mean over the learned tokens of every step's batch, before the step."""
        super().__init__(
            view,
            args=arguments,
            train_dataset=Dataset.from_dict({"step": list(range(len(plan)))}),
            data_collator=lambda rows: rows[0],
            processing_class=tokenizer,
        )
        self._collate = DataCollatorForLanguageModeling(pad_token_id=_pad(tokenizer))
        self.remove_callback(PrinterCallback)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """A forge tells nobody."""

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def log(self, logs: Any, start_time: float | None = None) -> None:
        """The losses say it all."""

    def training_step(self, model: Any, inputs: dict[str, int], num_items_in_batch: Any = None) -> Tensor:
        """Loss and gradients of one step: every learned token of its rows weighs the same."""
        model.train()
        rows = self._plan[inputs["step"]]
        tokens = torch.tensor(
            sum(label >= 0 for row in rows for label in row["labels"]), device=self.args.device
        )
        total = torch.zeros((), device=self.args.device)
        for part in slices(len(rows), self._micro_batch):
            with self.compute_loss_context_manager():
                batch = self._prepare_inputs(self._collate(list(rows[part])))
                loss = self.compute_loss(model, batch, num_items_in_batch=tokens)
            self.accelerator.backward(loss)
            total += loss.detach()
        self.losses.append(float(total))
        return total

    def use_the_models_own_loss(self) -> None:
        """TRL takes the same in a Triton kernel alone, which needs a GPU."""
        trainer = proxy(self)  # else it would keep itself in memory
        self.compute_loss = partial(Trainer.compute_loss, trainer)


def _pad(tokenizer: Any) -> int:
    """Any token will do: what it pads is masked."""
    return int(tokenizer.pad_token_id or 0)
