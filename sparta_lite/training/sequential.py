"""DPO through TRL: one adapter after another, each on a PEFT view of the resident base."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import proxy

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.memory import OnShrink, in_one_piece, shrink_to_fit
from sparta_lite.errors import SpartaError
from sparta_lite.training.choice import require_interpreter
from sparta_lite.training.optim import BETAS, EPSILON, distances, rise
from sparta_lite.training.packing import TokenizedPair, truncate
from sparta_lite.training.phase import (
    DpoResult,
    DpoSettings,
    DpoState,
    DpoStep,
    batches,
    micro_batches,
    reference_terms,
    require_fitting,
)
from sparta_lite.training.view import Wrap, adapter_view, leaves, load, on_one_device, store

_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw-8bit": "adamw_bnb_8bit"}
_MEASURED = ("rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
"""TRL's names for margin, accuracy and the log-probabilities of chosen and rejected."""
_ADVICE = "not even one pair at a time fits; lower training.max_length, or set training.checkpointing to true"
_UPDATE = "the optimizer does not fit; set training.optimizer to adamw-8bit, or lower tribe.resident"


def train_in_turn(
    model: Any,
    tokenizer: Any,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    settings: DpoSettings,
    *,
    wrap: Wrap,
    seed: int,
    iteration: int,
    pad: int,
    on_step: Callable[[DpoStep], None],
    save: Callable[[DpoState], None] | None = None,
    resume: DpoState | None = None,
    on_shrink: OnShrink | None = None,
    known: Tensor | None = None,
) -> DpoResult:
    """The same DPO as ``dpo.train``: same pairs and order, loss, schedule, clipping and AdamW.

    Args:
        model: the resident base; as it was when this returns.
        tokenizer: its own. Nothing is tokenised again: TRL gets the tokens that were generated.
        bank: float32, with the weights of the start of the phase, also when ``resume`` is given.
        pairs: may be empty; then nothing happens.
        settings: ``adapters_at_once`` means nothing here.
        wrap: what makes a PEFT model of the base.
        seed: see ``dpo.train``, as all that follows.
        iteration: of the run.
        pad: a token id to fill rows with.
        on_step: called after every update.
        save: called after every adapter.
        resume: a state that ``save`` got in the same phase; an adapter that was not finished begins anew.
        on_shrink: see ``dpo.train``.
        known: see ``dpo.train``; used for pairs of which both terms are.

    Raises:
        SpartaError: as ``dpo.train``; adapters already trained, and the complete updates of the one at
            hand, are in the bank. Also for another loss than DPO's.
    """
    if settings.loss != "dpo":
        raise SpartaError(
            "training: TRL's SPPO knows no win rates between 0 and 1; set training.trainer to tribe"
        )
    if model.device.type == "cpu":
        require_interpreter()
    whole = pairs
    pairs, truncated = truncate(whole, settings.max_length, settings.max_prompt)
    reference = reference_terms(known, whole, pairs, len(bank.adapters))
    plan = [
        batch
        for epoch in range(settings.epochs)
        for batch in batches(len(pairs), settings.batch, seed, iteration, epoch)
    ]
    start = {name: tensor.cpu().clone() for name, tensor in bank.tensors()}
    nothing = torch.zeros(len(bank.adapters), len(pairs), 0)  # TRL computes the reference as it goes
    finished, micro = 0, min(settings.micro_batch, settings.batch)
    if resume is not None:
        require_fitting(resume, bank, (len(bank.adapters), len(pairs), 0))
        bank.restore(resume.weights)
        finished = resume.done // len(plan)

    for slot in range(finished, len(bank.adapters) if plan else 0):
        part = bank.part(slot, slot + 1)
        try:
            with (
                tempfile.TemporaryDirectory() as scratch,
                adapter_view(model, tokenizer, part.adapters[0], settings.checkpointing, wrap) as view,
            ):
                settings = replace(settings, micro_batch=micro)
                read = [(pair, reference[slot, index].tolist()) for index, pair in enumerate(pairs)]
                todo = [[read[index] for index in batch] for batch in plan]
                trainer = _Trainer(view, tokenizer, part, todo, settings, pad, on_step, on_shrink, scratch)
                for name in ("default", "ref"):
                    load(view, part, name)
                with in_one_piece(phase="training", advice=_UPDATE):
                    trainer.train()
                micro = trainer.micro
        finally:
            bank.take_back(slot, part)
        if save is not None:
            save(DpoState(len(plan) * (slot + 1), nothing, dict(bank.tensors()), {}))
        del trainer, view, part  # before the next adapter takes as much memory

    moved = distances(bank, start).tolist()
    return DpoResult(
        {adapter.name: far for adapter, far in zip(bank.adapters, moved, strict=True)}, truncated
    )


_Referred = tuple[TokenizedPair, list[float]]


class _Trainer(DPOTrainer):  # type: ignore[misc]
    """TRL's loss, reference adapter and loop over updates that are planned beforehand.

    One row of its data is one update: TRL would average micro-batches that differ in size, take the mean
    over tokens of each alone, and let a batch run over the end of an epoch. A batch is pairs, each with its
    two reference terms, which are NaN where they are not known.
    """

    def __init__(
        self,
        view: Any,
        tokenizer: Any,
        bank: Bank,
        plan: Sequence[Sequence[_Referred]],
        settings: DpoSettings,
        pad: int,
        on_step: Callable[[DpoStep], None],
        on_shrink: OnShrink | None,
        scratch: str,
    ) -> None:
        """``bank``: of one adapter; it takes every update that proves sound."""
        self._bank = bank
        self._plan = plan
        self._settings = settings
        self._on_shrink = on_shrink
        self.micro = settings.micro_batch  # pairs in one forward pass, fewer once memory has run out
        self._collate = DataCollatorForPreference(pad_token_id=pad)
        super().__init__(
            model=view,
            args=_arguments(settings, len(plan), scratch, view),
            train_dataset=Dataset.from_dict({"update": list(range(len(plan)))}),
            data_collator=lambda rows: rows[0],
            processing_class=tokenizer,
            callbacks=[_AfterUpdate(self, on_step)],
        )

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """A run tells nobody."""

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def log(self, logs: Any, start_time: float | None = None) -> None:
        """The steps say it all."""

    def training_step(self, model: Any, inputs: dict[str, int], num_items_in_batch: Any = None) -> Tensor:
        """Loss and gradients of one update, in micro-batches.

        Raises:
            SpartaError: a loss or gradient is NaN or infinite; nothing has moved.
        """
        model.train()
        update = inputs["update"]
        batch = self._plan[update]
        (total, measured), self.micro = shrink_to_fit(
            partial(self._backward, model, batch),
            self.micro,
            phase="training",
            advice=_ADVICE,
            on_shrink=self._on_shrink,
        )
        norm = _norm([leaf.grad for leaf, _ in leaves(model, self._bank, "default") if leaf.grad is not None])
        self._require(update, total.isfinite(), "its loss is NaN or infinite; lower the learning rate")
        self._require(update, norm.isfinite(), "its gradient is NaN or infinite; lower the learning rate")
        margin, accuracy, chosen_logprob, rejected_logprob = measured
        self.step = DpoStep(
            adapter=self._bank.adapters[0].name,
            step=update,
            steps=len(self._plan),
            loss=float(total),
            margin=margin,
            accuracy=accuracy,
            chosen_logprob=chosen_logprob,
            rejected_logprob=rejected_logprob,
            chosen_length=sum(len(pair.chosen) for pair, _ in batch) / len(batch),
            rejected_length=sum(len(pair.rejected) for pair, _ in batch) / len(batch),
            gradient_norm=float(norm),
            learning_rate=self.lr_scheduler.get_last_lr()[0],
        )
        return total

    def _backward(self, model: Any, batch: Sequence[_Referred], size: int) -> tuple[Tensor, list[float]]:
        """Gradients of one batch from none on, in passes of ``size`` pairs; its loss, and ``_MEASURED``."""
        model.zero_grad(set_to_none=True)
        tokens = sum(len(pair.chosen) for pair, _ in batch)
        total = torch.zeros((), device=self.args.device)
        measured = [0.0] * len(_MEASURED)
        for micro, referred in _passes(batch, size):
            share = len(micro) / len(batch)
            chosen = sum(len(pair.chosen) for pair, _ in micro)
            self.loss_weights = [share, self._settings.sft_weight * chosen / tokens][: len(self.loss_types)]
            self.precompute_ref_logps = referred  # else TRL computes them beside the loss
            rows = [_row(pair, reference if referred else None) for pair, reference in micro]
            self._metrics["train"].clear()
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(self._collate(rows)))
            self.accelerator.backward(loss)
            total += loss.detach()
            for index, key in enumerate(_MEASURED):
                measured[index] += share * self._metrics["train"][key][-1]
        return total, measured

    def accept(self) -> DpoStep:
        """Take the update that was just made into the bank.

        Raises:
            SpartaError: it made weights infinite, or moved nothing although the learning rate is not 0.
        """
        step: DpoStep = self.step
        with torch.no_grad():
            pairs = leaves(self.model, self._bank, "default")
            moved = _norm([leaf.float() - tensor for leaf, tensor in pairs])
        complaint = "its weights became infinite; lower the learning rate"
        self._require(step.step, moved.isfinite(), complaint)
        if step.learning_rate > 0:
            complaint = f"its weights did not move at learning rate {step.learning_rate:.3g}; raise it"
            self._require(step.step, moved > 0, complaint)
        store(self.model, self._bank)
        return step

    def _require(self, step: int, sound: Tensor, complaint: str) -> None:
        if not sound:
            raise SpartaError(f"training: adapter {self._bank.adapters[0].name!r}, step {step}: {complaint}")


class _AfterUpdate(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: _Trainer, on_step: Callable[[DpoStep], None]) -> None:
        self._trainer = proxy(trainer)  # else each would keep the other in memory
        self._on_step = on_step

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._on_step(self._trainer.accept())


def _passes(batch: Sequence[_Referred], size: int) -> Iterator[tuple[list[_Referred], bool]]:
    """A batch in passes of ``size`` pairs of similar length, those with a known reference first."""
    for referred in (True, False):
        members = [each for each in batch if all(map(math.isfinite, each[1])) == referred]
        for part in micro_batches([pair for pair, _ in members], size):
            yield [members[place] for place in part], referred


def _row(pair: TokenizedPair, reference: list[float] | None) -> dict[str, Any]:
    """A pair as TRL's collator wants it."""
    row: dict[str, Any] = {
        "prompt_ids": list(pair.prompt),
        "chosen_ids": list(pair.chosen),
        "rejected_ids": list(pair.rejected),
    }
    if reference is not None:
        row["ref_chosen_logps"], row["ref_rejected_logps"] = reference
    return row


def _arguments(settings: DpoSettings, steps: int, scratch: str, view: Any) -> DPOConfig:
    arguments = DPOConfig(
        output_dir=scratch,
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
        max_length=settings.max_length,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=rise(steps, settings.warmup),
        optim=_OPTIMIZERS[settings.optimizer],
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=1,
        router_aux_loss_coef=0.0,  # else it would train adapters to spread tokens over frozen experts
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        # Over a base in bf16 too, or PEFT would keep every input in fp32 for the updates' sake.
        bf16=settings.dtype == "bf16" or view.get_input_embeddings().weight.dtype == torch.bfloat16,
        gradient_checkpointing=settings.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=view.device.type == "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    on_one_device(arguments)
    return arguments


def _norm(tensors: list[Tensor]) -> Tensor:
    """L2 norm over all of them together."""
    if not tensors:
        return torch.zeros(())
    total: Tensor = torch.stack([tensor.norm() for tensor in tensors]).norm()
    return total
