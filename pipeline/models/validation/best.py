"""The loss on held-out examples, the weights where it was lowest, and the end of a training that it no longer improves.

As transformers' ``load_best_model_at_end`` and ``EarlyStoppingCallback``, but the best weights are kept in memory and in the
checkpoint, not looked up among saved ones: any computation of the loss may be the best, and a resumed run has it too.
"""

import copy
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.adapters import methods
from pipeline.adapters.methods import MethodState
from pipeline.models.batches import steps_per_epoch
from pipeline.models.loss import held_out_loss
from pipeline.models.memory import run_within_memory
from pipeline.models.training_job import LossNotFinite, TrainingJob, TrainingState, ValidationRow
from pipeline.params.base import Training


class BestWeights:
    """The trainable tensors at the step with the lowest validation loss, and the method's state there.

    They are on the host: on a GPU a second copy of a fully trained model may not fit.
    """

    def __init__(self) -> None:
        self._parameters: list[Tensor] = []
        self._method_state: MethodState = {}

    def take(self, job: TrainingJob) -> None:
        """Copy the present weights."""
        self._parameters = [parameter.detach().to("cpu", copy=True) for parameter in job.parameters]
        self._method_state = copy.deepcopy(methods.method_state(job.model))

    def put_back(self, job: TrainingJob) -> None:
        """Copy the weights back into the model; without any it stays as it is."""
        if not self._parameters:
            return
        with torch.no_grad():
            for parameter, saved in zip(job.parameters, self._parameters, strict=True):
                parameter.copy_(saved)
        methods.restore_method_state(job.model, self._method_state)

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint stores of them; empty without any."""
        if not self._parameters:
            return {}
        return {"parameters": self._parameters, "method": self._method_state}

    def resume(self, content: Mapping[str, Any]) -> None:
        """Take over what ``content`` returned."""
        self._parameters = list(content.get("parameters", []))
        self._method_state = content.get("method", {})


def measure_validation(job: TrainingJob, state: TrainingState, best: BestWeights) -> ValidationRow:
    """Measure the loss per supervised token of the held-out examples, add it to the history, and note a new lowest one."""
    job.model.eval()
    loss, state.budget = run_within_memory(
        lambda budget: held_out_loss(job, budget=budget),
        state.budget,
        parameters=job.parameters,
        examples=job.held_out,
        group=job.group,
    )
    job.model.train()
    mean = loss / sum(example.supervised for example in job.held_out)
    row: ValidationRow = {
        "step": state.step,
        "epoch": epoch_of(job, state.step),
        "val_loss": round(mean, 6),
    }
    state.history.append(row)
    # a loss that is not a number is not below any
    if row["val_loss"] < (math.inf if state.best_loss is None else state.best_loss):
        state.best_loss, state.best_step, state.computations_since_best = row["val_loss"], state.step, 0
        if job.settings.keep == "best":
            best.take(job)
    else:
        state.computations_since_best += 1
    return row


def has_stalled(settings: Training, state: TrainingState) -> bool:
    """Return whether the validation loss has had no new lowest value for as long as the settings allow."""
    patience = settings.early_stopping_patience
    return patience is not None and state.computations_since_best >= patience


def note_divergence(job: TrainingJob, error: LossNotFinite) -> int:
    """Return the step of a trial whose loss is not finite, since its settings are the cause and that is its result.

    Raises:
        LossNotFinite: the training is no trial.
    """
    if not job.is_trial:
        raise error
    print(f"the trial diverged: {error}", file=sys.stderr)
    return error.step


def epoch_of(job: TrainingJob, step: int) -> float:
    """Return a number of steps in passes over the training set."""
    return round(step / steps_per_epoch(job.examples_per_epoch, job.settings.batch_size), 4)
