"""Several processes train one model: on one machine, or on many.

Every process reads the same input and holds the same weights. Each minibatch is divided among
them, their gradients are averaged (DDP, through Lightning Fabric), and whatever is decided once
(gene graph, likelihood, validation loss, verdict) is decided by the first process and told to
the others. Since random numbers belong to the cell and the step (:mod:`graphsci.nn.cell_random`)
and batch norm takes its statistics over all processes, the result is that of one process, but
for the order in which floats are added up.

Lightning Fabric is imported, and a process group made, only where there are several processes.
"""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from graphsci._optional import needed
from graphsci._terminal import n_processes
from graphsci.training.blocks import Minibatch
from graphsci.training.loop import Objective, Pooled

T = TypeVar("T")

#: How long a process waits for the others. The first one alone builds the gene graph and judges,
#: which may take hours; a process that dies is noticed at once, not by waiting.
_PATIENCE = datetime.timedelta(days=2)
_PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
_FEWEST_CELLS = 2  # of a minibatch, per process


class Team:
    """The processes of a job, from the view of one of them; made by :func:`join`.

    Attributes
    ----------
    rank, size
        Number of this process, from 0, and of processes.
    device
        Where this process computes.
    """

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank, self.size = int(fabric.global_rank), int(fabric.world_size)
        self.device: torch.device = fabric.device

    def share(self, n: int) -> slice:
        """The part of ``n`` things that is this process's: consecutive, as even as can be."""
        bounds = [n * rank // self.size for rank in (self.rank, self.rank + 1)]
        return slice(*bounds)

    def once(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the first process alone; return its result in all of them.

        An error of the first process is raised in all of them.
        """
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.rank == 0:
            try:
                outcome = function(), None
            except Exception as error:
                outcome = None, error
        value, failure = self._fabric.broadcast(outcome)
        if failure is not None:
            raise failure
        return value

    def together(self, function: Callable[[], T]) -> T:
        """Call ``function`` in every process; an error of any is raised in all of them."""
        value, failure = None, None
        try:
            value = function()
        except Exception as error:
            failure = error
        failures: list[Exception | None] = [None] * self.size
        torch.distributed.all_gather_object(failures, failure)
        for raised in failures:
            if raised is not None:
                raise raised
        return cast(T, value)

    def agreed(self, value: T) -> T:
        """Return the first process's value, which the last bits may tell from one's own."""
        return self._fabric.broadcast(value)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes; no gradient passes."""
        return self._fabric.all_reduce(value.detach().clone(), reduce_op="mean")

    def wait(self) -> None:
        """Wait until every process is here."""
        self._fabric.barrier()

    def leave(self) -> None:
        """Part from the others, when all are done; each process calls it."""
        self.wait()
        torch.distributed.destroy_process_group()

    def shared(self, objective: Objective, batch_size: int) -> SharedObjective:
        """Let the processes share the work on an objective.

        Raises
        ------
        ValueError
            If a minibatch has fewer than two cells for each process.
        """
        if batch_size < _FEWEST_CELLS * self.size:
            raise ValueError(
                f"{self.size} processes share minibatches of {batch_size} cells, expected at least "
                f"{_FEWEST_CELLS} cells for each. Use fewer processes or a larger --batch-size."
            )
        share_batch_norm(objective.network)
        step = _Step(objective)
        # batch norm and the learned prior agree by themselves; training writes no other buffer
        buffers = [name for name, _ in step.named_buffers()]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            step, buffers
        )
        return SharedObjective(objective, self._fabric.setup_module(step), self)


class _Step(nn.Module):
    """The loss of a step as a module, which is what DDP synchronises."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = objective.network, objective

    def forward(self, cells: Minibatch, step: int) -> Tensor:
        return self.objective.step_loss(cells, step)


class SharedObjective:
    """An objective whose minibatches are divided among the processes of a team.

    Loss and gradient of a step are those of the whole minibatch: a process with n of its N cells
    has weight n / N.
    """

    def __init__(self, objective: Objective, step: Callable[..., Tensor], team: Team) -> None:
        self.objective, self.step, self.team = objective, step, team
        self.n_cells, self.scored_share = objective.n_cells, objective.scored_share

    @property
    def network(self) -> nn.Module:
        """What is trained; the same weights in every process."""
        return self.objective.network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the objective."""
        return self.objective.parameter_groups()

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield whole minibatches, the same in every process."""
        return self.objective.minibatches(batch_size, rng)

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Loss of the whole minibatch, whose gradient flows through this process's part."""
        rows = self.team.share(len(cells.cells))
        own = Minibatch(cells.cells[rows], cells.counts[rows])
        # the gradients are averaged: their weights, n / N, times the number of processes
        weight = len(own.cells) * self.team.size / len(cells.cells)
        loss = weight * self.step(own, step)
        self.scored_share = self.objective.scored_share
        return loss + (self.team.mean(loss) - loss).detach()

    def add_prior_gradient(self) -> None:
        """That of the objective, in every process: gradients are of the whole minibatch already."""
        self.objective.add_prior_gradient()

    def end_epoch(self, pooled: Pooled | None = None) -> None:
        """End it for the objective, with the cells of all processes."""
        self.objective.end_epoch(pooled or self.team.mean)

    def validation_loss(self) -> float | None:
        """Every process has all deciding cells; the first one's value counts, to the last bit."""
        return self.team.agreed(self.objective.validation_loss())


# --- batch norm over all processes ------------------------------------------------------


def share_batch_norm(network: nn.Module) -> None:
    """Let the batch norms of a network, in place, take their statistics over all processes."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm1d:
                setattr(parent, name, SharedBatchNorm.of(child))


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm whose means and variances are those of the whole minibatch.

    torch's SyncBatchNorm does the same on GPUs alone. In evaluation it is plain batch norm.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> SharedBatchNorm:
        """Return a shared version with the same parameters and statistics."""
        assert norm.running_mean is not None
        shared = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        shared.to(norm.running_mean).load_state_dict(norm.state_dict())
        shared.weight, shared.bias = norm.weight, norm.bias
        return shared.train(norm.training)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise ``values``, (this process's cells, features)."""
        if not self.training:
            return super().forward(values)
        n_own = values.new_full((1,), len(values))
        total = _Sum.apply(torch.cat([values.sum(0), n_own]))
        n, mean = total[-1].detach(), total[:-1] / total[-1].detach()
        centred = values - mean
        variance = _Sum.apply(centred.square().sum(0)) / n
        self._remember(mean.detach(), variance.detach() * n / (n - 1))
        out = centred * (variance + self.eps).rsqrt()
        return out if self.weight is None else out * self.weight + self.bias

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics that evaluation uses."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is the gradient, as each one's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient


# --- starting and ending ----------------------------------------------------------------


def join(device: str = "auto") -> Team | None:
    """Meet the other processes that torchrun started; None if this process is alone.

    Parameters
    ----------
    device
        ``auto`` (GPUs if this machine has one for each of its processes), ``cpu`` or ``cuda``:
        process k of a machine takes GPU k.

    Raises
    ------
    ValueError
        If there are too few GPUs, or a single one is named.
    ImportError
        If lightning-fabric is missing.
    """
    size = n_processes()
    if size == 1:
        return None
    _end_with_parent()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    kind = _device_kind(device, local)
    lightning, strategies, environments = _fabric()
    fabric = lightning.Fabric(
        accelerator=kind,
        devices=local,
        num_nodes=size // local,
        plugins=[environments.TorchElasticEnvironment()],
        strategy=strategies.DDPStrategy(timeout=_PATIENCE),
    )
    fabric.launch()
    if kind == "cpu":  # gloo's threads abort a process that ends under them
        atexit.register(_part)
    return Team(fabric)


def _end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its launcher dies, if only by SIGKILL.

    That of torchrun or ``--devices``; others may start processes and end before them.
    One that died before this was called had the store through which the processes meet.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _fabric() -> tuple[Any, Any, Any]:
    """Import Lightning Fabric, which takes seconds and only several processes need."""
    needed("lightning_fabric", "work in several processes", "graphsci[distributed]")
    import lightning_fabric
    from lightning_fabric import strategies
    from lightning_fabric.plugins import environments

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    return lightning_fabric, strategies, environments


def _device_kind(device: str, n_local: int) -> str:
    n_gpus = torch.cuda.device_count()
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"device: got {device!r} with {n_local} processes on this machine, expected auto, cpu "
            "or cuda: process k takes GPU k."
        )
    if device == "cuda" and n_gpus < n_local:
        raise ValueError(
            f"device: got 'cuda' with {n_local} processes on this machine, which has {n_gpus} "
            "GPUs. Use as many processes as GPUs, or --device cpu."
        )
    return "cuda" if device != "cpu" and 0 < n_local <= n_gpus else "cpu"


def lost_another(error: Exception) -> bool:
    """Whether an error of this process says that another one of its job is gone."""
    if n_processes() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


class ProcessDied(Exception):
    """A process of a job ended before its time."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  #: of the process; negative: the signal that killed it


class JobStopped(Exception):
    """A job was ended by a signal, Ctrl-C or that of a batch system."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


def launch(n: int, arguments: Sequence[str]) -> None:
    """Run ``graphsci`` with these arguments in ``n`` processes of this machine, as torchrun does.

    The cores are divided among them, unless OMP_NUM_THREADS says otherwise.

    Raises
    ------
    ProcessDied
        If one of them failed; the others are ended.
    JobStopped
        If this process got a signal to end; all of them are ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _fabric()  # refuse before anything is started
    _silence("torch.distributed.elastic")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id="graphsci",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "graphsci", *arguments)
    except ChildFailedError as error:
        _refuse(*error.get_first_failure(), n)
    except SignalException as error:
        raise JobStopped(error.sigval) from None


def _silence(name: str) -> None:
    """Let a package of torch log nothing: its loggers have levels of their own."""
    logger = logging.getLogger(name)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _refuse(rank: int, failure: Any, n: int) -> NoReturn:
    code = int(failure.exitcode)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    why = " (SIGKILL: often the memory ran out)" if code == -9 else ""
    raise ProcessDied(f"process {rank + 1} of {n} {how}{why}; the job was ended.", code)
