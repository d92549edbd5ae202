"""One training loop for any objective.

An objective (:mod:`graphsci.training.objectives`) knows a network and its data: which minibatches
an epoch has, what a step costs, and how good the weights are on what was withheld. The loop steps,
keeps the best weights, stops early, and can be interrupted without losing them. Everything that
changes on the way is in :class:`TrainingState`, which :mod:`graphsci.training.checkpoint` writes
and reads.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from graphsci.advance import Meter
from graphsci.config import Config
from graphsci.training.blocks import Minibatch

#: Fewest and most optimiser steps of a run whose number of epochs is chosen for it; more than
#: these gain nothing with 30,000 simulated cells (benchmarks/lab).
STEPS = (600, 6_000)


class EpochRecord(NamedTuple):
    """What one epoch did."""

    epoch: int  #: from 1
    training_loss: float  #: nats per cell, as if all of its molecules had been predicted
    validation_loss: float  #: nats per cell on withheld data; nan without validation
    learning_rate: float
    seconds: float  #: since training began


class TrainingResult(NamedTuple):
    """How training went; the network holds the best weights."""

    history: list[EpochRecord]
    best_epoch: int
    stopped: str  #: "finished", "no improvement" or "interrupted"


class Progress(Protocol):
    """Called after every epoch with the number of epochs planned.

    Within epochs, :mod:`graphsci.advance` tells.
    """

    def __call__(self, record: EpochRecord, n_epochs: int) -> None:
        """Report an epoch."""


class Checkpoint(Protocol):
    """Keeps the state of training on disk."""

    def restore(self, state: TrainingState) -> None:
        """Bring ``state`` to where an earlier run left off, if there was one."""

    def offer(self, state: TrainingState) -> None:
        """Take ``state`` at the end of an epoch; keep it if it is time to."""


#: Averages a tensor over the processes that train together.
Pooled = Callable[[Tensor], Tensor]


def alone(own: Tensor) -> Tensor:
    """Of one process, the mean is its own."""
    return own


class Objective(Protocol):
    """What the loop needs to know of a model and its data."""

    n_cells: int
    scored_share: float  #: share of a cell's molecules that the last step's loss covers

    @property
    def network(self) -> torch.nn.Module:
        """What is trained; its weights are kept and restored."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser.

        ``rate`` multiplies a group's learning rate. With ``precision``, its weights are
        N(0, 1 / precision) a priori, which adds precision / 2 x (sum of their squares) to the
        loss per cell, times ``scored_share``.
        """
        ...

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield every training cell once, shuffled: :func:`graphsci.training.blocks.shuffled`."""
        ...

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Loss of a minibatch in the run's ``step`` (from 1), in nats per cell."""
        ...

    def add_prior_gradient(self) -> None:
        """Add to the gradients of a step those of priors that ``precision`` cannot express."""
        ...

    def end_epoch(self, pooled: Pooled = alone) -> None:
        """Bring up to date what follows from an epoch's weights; the network is in eval mode."""
        ...

    def validation_loss(self) -> float | None:
        """Loss on withheld data, in nats per cell; None if nothing was withheld."""
        ...


def n_epochs_for(n_cells: int, batch_size: int, max_epochs: int = 0) -> int:
    """Passes over the cells: ``max_epochs`` if given, else by the number of steps.

    40 passes suffice for thousands of cells; few cells need more passes to make enough steps,
    many cells fewer, but never fewer than 4.
    """
    if max_epochs:
        return max_epochs
    steps_per_epoch = max(1, n_cells // batch_size)
    n_steps = np.clip(40 * steps_per_epoch, *STEPS)
    return max(4, math.ceil(n_steps / steps_per_epoch))


def batch_size_for(n_cells: int, config: Config) -> int:
    """Cells per step: as configured, else an eighth (`paper`: a twentieth), from 32 to 128."""
    steps_per_epoch = 8 if config.preset == "default" else 20
    chosen = config.batch_size or int(np.clip(n_cells // steps_per_epoch, 32, 128))
    return min(chosen, n_cells)


def train(
    objective: Objective,
    config: Config,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Minimise an objective; leave the best weights in its network.

    Ctrl-C ends training at once and keeps the best weights so far; before the end of the first
    epoch there are none, and the interrupt goes on to the caller.

    Parameters
    ----------
    objective
        Network and data.
    config
        Epochs, batch size, learning rate, patience and seed.
    progress
        Called after every epoch.
    checkpoint
        Where the state is kept; a run that goes on from it gives the same weights, bit by
        bit, as one that was never stopped.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    """
    batch_size = batch_size_for(objective.n_cells, config)
    n_epochs = n_epochs_for(objective.n_cells, batch_size, config.max_epochs)
    steps_per_epoch = max(1, objective.n_cells // batch_size)
    state = TrainingState(objective, config, n_steps=n_epochs * steps_per_epoch)
    if checkpoint is not None:
        checkpoint.restore(state)
    before = state.history[-1].seconds if state.history else 0.0
    stopped, start = "finished", time.perf_counter() - before
    meter = Meter("training", n_epochs, "epochs", seconds=before)
    try:
        while len(state.history) < n_epochs and not state.patience_ended(config.patience):
            training = _epoch(objective, state, batch_size, meter)
            validation = objective.validation_loss()
            state.record(training, validation, seconds=time.perf_counter() - start)
            if checkpoint is not None:
                checkpoint.offer(state)
            if progress is not None:
                progress(state.history[-1], n_epochs)
        if state.patience_ended(config.patience):
            stopped = "no improvement"
    except KeyboardInterrupt:
        if not state.history:
            raise
        stopped = "interrupted"
    finally:
        state.restore_best()
    if state.history and not state.best.epoch:
        raise FloatingPointError(
            f"The validation loss was not finite in any of {len(state.history)} epochs. "
            "Try a smaller learning_rate, or float32 precision."
        )
    objective.network.eval()
    meter.end(len(state.history))
    return TrainingResult(list(state.history), state.best.epoch, stopped)


def _epoch(objective: Objective, state: TrainingState, batch_size: int, meter: Meter) -> float:
    """Pass over the cells once; return the training loss, leave the network in eval mode."""
    objective.network.train()
    total, shares, n_seen = torch.zeros((), dtype=torch.float64), 0.0, 0
    for cells in objective.minibatches(batch_size, state.order):
        state.step += 1
        loss = objective.step_loss(cells, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        objective.add_prior_gradient()
        for group in state.optimizer.param_groups:  # adds weight_decay x weight to the gradient
            group["weight_decay"] = group["precision"] * objective.scored_share
        state.optimizer.step()
        state.scheduler.step()
        n_cells = len(cells.cells)  # the last minibatch has others than the rest
        total = total.to(loss.device) + n_cells * loss.detach().double()
        shares += n_cells * objective.scored_share
        n_seen += n_cells
        meter.reach(len(state.history) + n_seen / objective.n_cells)
    objective.network.eval()
    training_loss = float(total) / shares
    if math.isfinite(training_loss):
        objective.end_epoch()
    return training_loss


class _Best(NamedTuple):
    """The best epoch so far; 0 is none."""

    epoch: int = 0
    loss: float = math.inf
    weights: dict[str, Tensor] | None = None


class _Noted(NamedTuple):
    """The finished epochs, and the best of them."""

    history: tuple[EpochRecord, ...]
    best: _Best


class TrainingState:
    """Everything that changes while a model is trained.

    The random numbers of a step follow from its number (:mod:`graphsci.nn.cell_random`), so that
    only the order of the cells has a state of its own.

    Attributes
    ----------
    step
        Optimiser steps so far.
    order
        Shuffles the cells of every epoch.
    noted
        What is known of the finished epochs.
    """

    def __init__(self, objective: Objective, config: Config, *, n_steps: int) -> None:
        self.network = objective.network
        self.optimizer, self.scheduler = _optimizer(objective, config, n_steps=n_steps)
        self.order = np.random.default_rng(config.seed)
        self.noted = _Noted((), _Best())
        self.step = 0

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """One record per finished epoch."""
        return self.noted.history

    @property
    def best(self) -> _Best:
        """The epoch with the lowest validation loss; the last one without validation."""
        return self.noted.best

    def record(self, training: float, validation: float | None, *, seconds: float) -> None:
        """Note a finished epoch, and its weights if they are the best."""
        epoch, shown = len(self.history) + 1, math.nan if validation is None else validation
        rate = self.optimizer.param_groups[0]["lr"]
        record = EpochRecord(epoch, training, shown, rate, seconds)
        _refuse_divergence(record)
        best = self.best
        if validation is None or validation < best.loss:  # false for nan
            state = self.network.state_dict()
            weights = {name: tensor.detach().clone() for name, tensor in state.items()}
            best = _Best(epoch, math.inf if validation is None else validation, weights)
        self.noted = _Noted((*self.history, record), best)  # at once: Ctrl-C may come at any line

    def restore_best(self) -> None:
        """Bring the weights of the best epoch back, if there is one."""
        if self.best.weights is not None:
            self.network.load_state_dict(self.best.weights)

    def patience_ended(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs brought nothing; 0 is endless patience."""
        return 0 < patience <= len(self.history) - self.best.epoch

    def state_dict(self) -> dict[str, Any]:
        """All of it as nested dicts and lists of tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": self.best._asdict(),
            "order": self.order.bit_generator.state,
            "history": [list(record) for record in self.history],
            "step": self.step,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, here or in an earlier run."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.order.bit_generator.state = saved["order"]
        history = tuple(EpochRecord(*record) for record in saved["history"])
        self.noted = _Noted(history, _Best(**saved["best"]))
        self.step = saved["step"]


class _Adam(torch.optim.Adam):
    """Adam apart from torch's compiler.

    torch loads its compiler to keep it away from these methods, which takes half as long as
    loading torch itself, and 70 MiB; here nothing is ever compiled.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def _optimizer(
    objective: Objective, config: Config, *, n_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam with the preset's schedule: one cycle, or exponential decay (Fig. S9)."""
    groups = [
        {
            "params": group["params"],
            "lr": config.learning_rate * group.get("rate", 1.0),
            "precision": group.get("precision", 0.0),
        }
        for group in objective.parameter_groups()
    ]
    optimizer = _Adam(groups, fused=True)
    if config.preset == "paper":
        rate, steps = config.lr_decay, config.lr_decay_steps
        decay: Callable[[int], float] = lambda step: rate ** (step / steps)  # noqa: E731
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=n_steps + 1, pct_start=0.3
    )
    return optimizer, schedule


def _refuse_divergence(record: EpochRecord) -> None:
    if not math.isfinite(record.training_loss):
        raise FloatingPointError(
            f"The training loss became {record.training_loss} in epoch {record.epoch}. "
            "Try a smaller learning_rate, or float32 precision."
        )
