"""The loop with a scripted objective; the two objectives against formulas on small blocks."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from torch import nn

from graphsci.advance import heard_by
from graphsci.config import PAPER, Config
from graphsci.gene_graph.graph import normalized_adjacency
from graphsci.nn import cell_blocks, loading_prior
from graphsci.nn.cell_random import CELLS, GENES, PAIRS, row_keys, step_key
from graphsci.nn.dispersion_prior import DispersionPrior, log_theta_information, updated_trend
from graphsci.nn.fused_likelihood import RankOneTheta, SoftmaxMean, softmax_loss
from graphsci.nn.loading_prior import updated_covariance
from graphsci.nn.model import CountNetwork
from graphsci.nn.paper_model import PaperNetwork
from graphsci.training import loop as training
from graphsci.training import objectives
from graphsci.training.blocks import MemoryBlocks, Minibatch, shuffled

CPU = torch.device("cpu")


class Scripted:
    """One weight that every step moves; validation losses as written down beforehand."""

    scored_share = 1.0

    def __init__(self, validation, *, n_cells=64, at_step=None):
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.validation, self.n_cells, self.at_step = iter(validation), n_cells, at_step
        self.seen, self.after_epoch, self.modes = [], [], []
        self.gradients, self.learned_after = [], []

    def parameter_groups(self):
        return [{"params": list(self.network.parameters())}]

    def minibatches(self, batch_size, rng):
        counts = sparse.csr_matrix((self.n_cells, 1), dtype=np.float32)
        return shuffled(MemoryBlocks(counts), batch_size, rng)

    def step_loss(self, cells, step):
        self.seen.append(cells.cells)
        self.modes.append(self.network.training)
        loss = -self.network.weight.sum()
        return loss if self.at_step is None else self.at_step(len(self.seen), loss)

    def add_prior_gradient(self):
        self.gradients.append(self.network.weight.grad.item())

    def end_epoch(self):
        self.learned_after.append(len(self.seen))

    def validation_loss(self):
        assert not self.network.training
        self.after_epoch.append(self.network.weight.item())
        return next(self.validation)


def run(objective, **options):
    progress = options.pop("progress", None)
    config = Config(**{"max_epochs": 6, "batch_size": 32, **options})
    return training.train(objective, config, progress=progress)


# --- batches and epochs ---------------------------------------------------------------


def positions(n_cells, batch_size, rng):
    objective = Scripted([], n_cells=n_cells)
    return [batch.cells for batch in objective.minibatches(batch_size, rng)]


def minibatch(objective, cells) -> Minibatch:
    cells = np.asarray(cells)
    return Minibatch(cells, objective.blocks.chunk(0)[cells])


@pytest.mark.parametrize(("n_cells", "batch_size"), [(1, 1), (10, 3), (64, 32), (7, 7), (5, 4)])
def test_minibatches_cover_every_cell_once(n_cells, batch_size):
    batches = positions(n_cells, batch_size, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(n_cells))
    assert len(batches) == max(1, n_cells // batch_size)
    assert min(map(len, batches)) >= min(batch_size, n_cells)


def test_minibatches_are_shuffled_anew():
    rng = np.random.default_rng(0)
    first, second = (np.concatenate(positions(100, 10, rng)) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("n_cells", "asked", "chosen"),
    [(5, 0, 5), (100, 0, 32), (1000, 0, 125), (10**6, 0, 128), (1000, 64, 64), (10, 64, 10)],
)
def test_batch_size(n_cells, asked, chosen):
    assert training.batch_size_for(n_cells, Config(batch_size=asked)) == chosen


def test_batch_size_of_the_published_model():
    assert training.batch_size_for(1000, PAPER) == 50


def test_few_cells_get_a_narrow_prior():
    prior, *_ = thinning(toy_counts()).parameter_groups()
    assert prior["precision"] == pytest.approx(1 / (0.07**2 * toy_counts().shape[0]))


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "chosen"),
    [
        (2700, 128, 40),  # 21 steps an epoch
        (64, 32, 300),  # 2 steps an epoch, at least 600 in all
        (10, 32, 600),  # never less than one step
        (128_000, 128, 6),  # 1,000 steps an epoch, at most 6,000 in all
        (10**7, 128, 4),
    ],
)
def test_number_of_epochs(n_cells, batch_size, chosen):
    assert training.n_epochs_for(n_cells, batch_size) == chosen
    assert training.n_epochs_for(n_cells, batch_size, 3) == 3


def test_cell_block_picks_cells_in_order():
    counts = sparse.csr_matrix(np.array([[1, 0, 2], [0, 0, 0], [0, 5, 0]], dtype=np.float32))
    block = cell_blocks.cell_block(counts, np.array([4, 5, 6]), np.array([2, 1]), CPU)
    assert block.dense(block.counts, 3).tolist() == [[0, 5, 0], [0, 0, 0]]
    assert block.library.tolist() == [5, 0]
    assert block.batch.tolist() == [6, 5]


# --- the loop -------------------------------------------------------------------------


def test_best_weights_are_restored():
    objective = Scripted([5.0, 4.0, 3.0, 7.0, 6.0, 8.0])
    result = run(objective)
    assert (result.best_epoch, result.stopped) == (3, "finished")
    assert objective.network.weight.item() == objective.after_epoch[2]
    assert objective.after_epoch[2] < objective.after_epoch[5]
    assert [record.validation_loss for record in result.history] == [5, 4, 3, 7, 6, 8]
    assert [record.epoch for record in result.history] == [1, 2, 3, 4, 5, 6]
    assert not objective.network.training


def test_every_epoch_sees_every_cell_in_training_mode():
    objective = Scripted([1.0] * 6, n_cells=70)
    run(objective)
    assert len(objective.seen) == 6 * 2
    assert np.array_equal(np.sort(np.concatenate(objective.seen[:2])), np.arange(70))
    assert all(objective.modes)


def test_training_loss_is_per_cell_when_minibatches_differ():
    """Cells of one loss each, 64 and 126 to a minibatch: 0 in the first, 1 in the second."""

    def at_step(step, loss):
        return 0 * loss + (len(objective.seen[-1]) == 126)

    objective = Scripted([1.0], n_cells=190, at_step=at_step)
    result = training.train(objective, Config(max_epochs=1, batch_size=64))
    assert sorted(map(len, objective.seen)) == [64, 126]
    assert result.history[0].training_loss == pytest.approx(126 / 190)


def test_ctrl_c_while_an_epoch_is_noted(monkeypatch):
    """In the middle of the copy of its weights: that epoch never was."""
    objective = Scripted([5.0, 4.0, 3.0, 2.0])
    whole, calls = objective.network.state_dict, []

    def interrupted():
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole()

    monkeypatch.setattr(objective.network, "state_dict", interrupted)
    result = run(objective)
    assert (result.best_epoch, len(result.history), result.stopped) == (2, 2, "interrupted")
    assert objective.network.weight.item() == objective.after_epoch[1]


def test_patience_stops_and_keeps_the_best():
    objective = Scripted([5.0, 4.0, 4.5, 4.0, 1.0, 1.0])  # an equal loss is no improvement
    result = run(objective, patience=2)
    assert (result.best_epoch, result.stopped, len(result.history)) == (2, "no improvement", 4)
    assert objective.network.weight.item() == objective.after_epoch[1]


def test_no_patience_is_endless_patience():
    objective = Scripted([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    result = run(objective, patience=0)
    assert (result.best_epoch, result.stopped, len(result.history)) == (1, "finished", 6)
    assert objective.network.weight.item() == objective.after_epoch[0]


def test_without_validation_the_last_weights_stay():
    objective = Scripted([None] * 6)
    result = run(objective, patience=1)
    assert (result.best_epoch, result.stopped) == (6, "finished")
    assert objective.network.weight.item() == objective.after_epoch[-1]
    assert all(math.isnan(record.validation_loss) for record in result.history)


@pytest.mark.parametrize("where", ["step", "progress"])
def test_ctrl_c_keeps_the_best_weights(where):
    """Interrupted in epoch 4, whose steps have already moved the weights."""

    def at_step(step, loss):
        if where == "step" and step == 8:
            raise KeyboardInterrupt
        return loss

    def progress(record, n_epochs):
        assert n_epochs == 6
        if where == "progress" and record.epoch == 4:
            raise KeyboardInterrupt

    objective = Scripted([5.0, 3.0, 4.0, 6.0], at_step=at_step)
    result = run(objective, progress=progress)
    assert (result.best_epoch, result.stopped) == (2, "interrupted")
    assert len(result.history) == (3 if where == "step" else 4)
    assert objective.network.weight.item() == objective.after_epoch[1]
    assert not objective.network.training


def test_ctrl_c_without_validation_keeps_the_last_whole_epoch():
    """Step 8 is the second of epoch 4: what it and the first one did is undone."""

    def at_step(step, loss):
        if step == 8:
            raise KeyboardInterrupt
        return loss

    objective = Scripted([None] * 6, at_step=at_step)
    result = run(objective)
    assert (result.best_epoch, result.stopped) == (3, "interrupted")
    assert objective.network.weight.item() == objective.after_epoch[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(value):
    objective = Scripted(
        [2.0, 1.0, 3.0], at_step=lambda step, loss: loss + (value if step > 4 else 0)
    )
    message = rf"training loss became {value} in epoch 3\. Try a smaller learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        run(objective)
    assert objective.network.weight.item() == objective.after_epoch[1]


def test_a_validation_loss_that_turns_nan_does_not_become_the_best():
    objective = Scripted([3.0, 2.0, math.nan, math.nan, math.nan, math.nan])
    result = run(objective)
    assert result.best_epoch == 2
    assert objective.network.weight.item() == objective.after_epoch[1]


def test_a_validation_loss_that_is_never_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="not finite in any of 6 epochs"):
        run(Scripted([math.nan] * 6))


@pytest.mark.parametrize("validation", [[5.0] * 6, [None] * 6])
@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_in_the_first_epoch_goes_on_to_the_caller(step, validation):
    """There are no trained weights to keep: what is left would be taken for a model."""

    def at_step(n_steps, loss):
        if n_steps == step:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        run(Scripted(validation, at_step=at_step))


def test_ctrl_c_after_the_first_epoch_keeps_it():
    def progress(record, n_epochs):
        raise KeyboardInterrupt

    objective = Scripted([5.0])
    result = run(objective, progress=progress)
    assert (result.best_epoch, result.stopped, len(result.history)) == (1, "interrupted", 1)
    assert objective.network.weight.item() == objective.after_epoch[0]


def test_a_validation_loss_that_is_not_finite_is_never_the_best():
    objective = Scripted([3.0, 2.0, math.nan, 2.0, 5.0, 4.0])
    assert run(objective).best_epoch == 2
    assert objective.network.weight.item() == objective.after_epoch[1]


def test_progress_hears_of_every_epoch():
    heard = []
    run(Scripted([1.0] * 6), progress=lambda record, n: heard.append((record.epoch, n)))
    assert heard == [(epoch, 6) for epoch in range(1, 7)]


def epochs_told(monkeypatch, objective, *, checkpoint=None, **options):
    """Train, and return how far it was said to be at every step: epochs done, and of how many."""
    monkeypatch.setattr("graphsci.advance._EVERY_SECONDS", 0)
    heard = []
    with heard_by(heard.append):
        config = Config(**{"max_epochs": 6, "batch_size": 32, **options})
        training.train(objective, config, checkpoint=checkpoint)
    assert {(at.what, at.unit) for at in heard} == {("training", "epochs")}
    seconds = [at.seconds for at in heard]
    assert seconds == sorted(seconds)
    return [(at.done, at.of) for at in heard], seconds


def test_what_is_told_within_epochs(monkeypatch):
    told, _ = epochs_told(monkeypatch, Scripted([2.0, 1.0]), max_epochs=2)
    assert told == [(0.5, 2), (1.0, 2), (1.5, 2), (2.0, 2), (2, 2)]


def test_minibatches_of_different_sizes_end_an_epoch_exactly(monkeypatch):
    told, _ = epochs_told(monkeypatch, Scripted([1.0], n_cells=107), max_epochs=1)
    assert told == [(32 / 107, 1), (64 / 107, 1), (1.0, 1), (1, 1)]


def test_early_stopping_ends_what_is_told(monkeypatch):
    told, _ = epochs_told(monkeypatch, Scripted([1.0, 2.0, 3.0]), patience=2)
    assert told[-2:] == [(3.0, 6), (3, 3)]


def test_ctrl_c_ends_what_is_told(monkeypatch):
    def press(n_steps, loss):
        if n_steps == 4:
            raise KeyboardInterrupt
        return loss

    told, _ = epochs_told(monkeypatch, Scripted([1.0, 2.0], at_step=press))
    assert told == [(0.5, 6), (1.0, 6), (1.5, 6), (1, 1)]


def test_a_run_that_goes_on_tells_from_where_it_was(monkeypatch):
    class Earlier:
        def restore(self, state):
            for epoch in range(4):
                state.record(1.0, 9.0 - epoch, seconds=1_000.0 * (epoch + 1))

        def offer(self, state):
            pass

    told, seconds = epochs_told(monkeypatch, Scripted([2.0, 1.0]), checkpoint=Earlier())
    assert told == [(4.5, 6), (5.0, 6), (5.5, 6), (6.0, 6), (6, 6)]
    assert 4_000 < seconds[0] < 4_100


def test_schedules():
    """Default: one cycle with its peak at 30 %. Paper: decay by 0.9 every 50 steps (Fig. S9)."""
    options = {"max_epochs": 100, "patience": 200, "learning_rate": 0.01}
    rates = lambda result: [record.learning_rate for record in result.history]  # noqa: E731
    cycle = rates(run(Scripted([1.0] * 100), **options))
    assert 25 <= int(np.argmax(cycle)) <= 35
    assert max(cycle) == pytest.approx(0.01, rel=1e-3)
    assert cycle[-1] < 1e-4
    config = PAPER.replace(batch_size=32, **options)
    decay = training.train(Scripted([1.0] * 100), config)
    assert rates(decay)[24] == pytest.approx(0.009)  # after 50 steps
    assert rates(decay)[99] == pytest.approx(0.01 * 0.9**4)
    slower = training.train(Scripted([1.0] * 100), config.replace(lr_decay=0.5, lr_decay_steps=100))
    assert rates(slower)[99] == pytest.approx(0.01 * 0.5**2)
    none = training.train(Scripted([1.0] * 100), config.replace(lr_decay=1.0))
    assert set(rates(none)) == {0.01}


def test_the_optimiser_is_torchs_adam_bit_by_bit():
    rng = torch.Generator().manual_seed(0)
    start, ours, theirs = torch.randn(5, 3, generator=rng), nn.Linear(3, 5), nn.Linear(3, 5)
    objective, config = Scripted([]), Config(learning_rate=0.03)
    objective.network = ours
    optimizer, _ = training._optimizer(objective, config, n_steps=10)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    judge = torch.optim.Adam(
        theirs.parameters(),
        lr=optimizer.param_groups[0]["lr"],
        betas=optimizer.param_groups[0]["betas"],  # the schedule's first
        weight_decay=0.1,
        fused=True,
    )
    for network in (ours, theirs):
        nn.init.zeros_(network.bias)
        network.weight.data.copy_(start)
    x = torch.randn(4, 3, generator=rng)
    for step in range(5):
        if step == 3:  # the state survives being saved
            optimizer.load_state_dict(optimizer.state_dict())
        for network, stepped in ((ours, optimizer), (theirs, judge)):
            stepped.zero_grad()
            network(x).square().sum().backward()
            stepped.step()
    assert not torch.equal(ours.weight, start)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_rates_of_parameter_groups_are_kept_apart():
    objective = Scripted([1.0])
    slow = objective.network.weight
    fast = nn.Parameter(torch.zeros(1, 1))
    objective.parameter_groups = lambda: [{"params": [slow]}, {"params": [fast], "rate": 5.0}]
    objective.step_loss = lambda cells, step: -(slow + fast).sum()
    training.train(objective, PAPER.replace(max_epochs=1, batch_size=64))
    # Adam's first step is the learning rate itself
    assert fast.item() == pytest.approx(5 * slow.item(), rel=1e-4)
    assert slow.item() == pytest.approx(0.01, rel=1e-4)


# --- the default objective ------------------------------------------------------------


def toy_counts(n_cells=30, n_genes=8, seed=0) -> sparse.csr_matrix:
    counts = np.random.default_rng(seed).poisson(2.0, (n_cells, n_genes))
    return sparse.csr_matrix(counts.astype(np.float32))


def count_network(counts, *, zero_inflated=False, n_batches=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        proportions = np.asarray(counts.sum(0)).ravel() / counts.sum()
        return CountNetwork(
            gene_proportions=torch.as_tensor(proportions).float(),
            n_latent=3,
            n_hidden=6,
            dropout_rate=0.0,
            median_library=16.0,
            n_batches=n_batches,
            zero_inflated=zero_inflated,
            averaging=None,
        )


def thinning(counts, held_out=None, *, zero_inflated=False, n_batches=1, **options):
    return objectives.ThinningObjective(
        count_network(counts, zero_inflated=zero_inflated, n_batches=n_batches),
        MemoryBlocks(sparse.csr_matrix(counts)),
        np.arange(counts.shape[0]) % n_batches,
        np.asarray(counts.sum(0), dtype=float).ravel(),
        Config(**options),
        device=CPU,
        held_out=held_out,
    )


def counts_of_means(means, n_cells=20) -> sparse.csr_matrix:
    """Every cell with the same counts, so that these are the genes' means."""
    return sparse.csr_matrix(np.tile(np.asarray(means, np.float32), (n_cells, 1)))


def test_genes_with_many_molecules_are_hidden_in_turn():
    """By hand: at theta 1 and f = .5 a step scores .5 / (.5 m + 1) of what a count says."""
    means = np.array([1.0, 3.0, 8.0, 98.0])
    counts, half = counts_of_means(np.repeat(means, 100)), {"kept_low": 0.5, "kept_high": 0.5}
    objective = thinning(counts, least_scored=0.2, **half)
    scored = [1 / 3, 0.2, 0.1, 0.01]
    share = [0, 0, 0.1 / 0.9, 0.19 / 0.99]  # s + (1 - s) q = .2
    assert [q + (1 - q) * s for q, s in zip(share, scored, strict=True)][1:] == pytest.approx(
        [0.2, 0.2, 0.2]
    )
    found = objective.hiding.share.reshape(4, 100)
    torch.testing.assert_close(
        found, torch.tensor(share)[:, None].expand(4, 100), atol=1e-6, rtol=0
    )
    assert objective.hiding.of_molecules == pytest.approx((share * means).sum() / means.sum())
    hidden = torch.stack([objective._hidden(step) for step in range(1, 201)])
    often = hidden.double().mean(0).reshape(4, 100)
    assert not often[:2].any()
    assert often[2:].mean(1).tolist() == pytest.approx(share[2:], abs=0.01)
    assert not hidden[:, 200:].all(0).any()
    assert hidden[:, 200:].any(0).all()
    assert torch.equal(objective._hidden(7), hidden[6])  # of the step alone
    assert thinning(counts_of_means(means), least_scored=0.0)._hidden(1) is None
    assert thinning(counts, least_scored=0.005, **half)._hidden(1) is None


def test_which_genes_are_hidden_follows_theta():
    """Known after an epoch: where theta is large the kept molecules say little of the others."""
    objective = thinning(counts_of_means([3.0, 98.0]))
    before = objective.hiding.share
    with torch.no_grad():
        objective.network.log_theta += 4
    assert objective.hiding.share is before  # all of an epoch
    cells = next(iter(objective.minibatches(10, np.random.default_rng(0))))
    objective.step_loss(cells, 1)
    objective.end_epoch()
    assert objective.hiding.share[1] < before[1]


def test_what_is_hidden_is_what_the_encoder_does_not_see():
    """The others count for 1 / (1 - q) in its place: in the mean over steps nothing changes."""
    objective = thinning(counts_of_means([1.0, 98.0]), least_scored=0.6)
    network, share = objective.network.eval(), objective.hiding.share
    cells = next(iter(objective.minibatches(10, np.random.default_rng(0))))
    block = cell_blocks.move_cells(cells.counts, np.zeros(10, np.int64), CPU)
    seen = network._input_product(block)
    scaled = network._input_product(block, share)
    weight = network.input_weight.detach()
    values = block.log_normalized(network.median_library).reshape(10, 2)
    by_hand = values / (1 - share) @ weight
    torch.testing.assert_close(scaled, by_hand)
    torch.testing.assert_close(seen, values @ weight)


def test_validation_loss_of_withheld_molecules_matches_scipy():
    """t | k ~ NB of mean (theta + k) (1 - f) mu / (theta + f mu), shape theta + k."""
    full, rng = toy_counts(), np.random.default_rng(1)
    cells, f = np.array([3, 8, 20]), 0.75
    target = rng.binomial(full[cells].toarray().astype(int), 1 - f)
    kept = full.toarray()
    kept[cells] -= target
    withheld = sparse.csr_matrix(target.astype(np.float32))
    kept_cells, batch = sparse.csr_matrix(kept[cells]), np.zeros(3, np.int64)
    held_out = objectives.HeldOut(kept_cells, withheld, batch, 1 - f)
    objective = thinning(sparse.csr_matrix(kept), held_out)
    network = objective.network.eval()
    with torch.no_grad():
        block = cell_blocks.cell_block(kept_cells, batch, np.arange(3), CPU)
        mu, theta, _ = network.decode(network.encode(block), block.library / f, block.batch)
    mu, theta, k = mu.double().numpy(), theta.double().numpy(), kept[cells]
    shape = theta + k
    mean = shape * (1 - f) * mu / (theta + f * mu)
    truth = -stats.nbinom.logpmf(target, shape, shape / (shape + mean)).sum() / 3
    assert objective.validation_loss() == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_validation_does_not_learn_and_does_not_depend_on_the_block(monkeypatch, zero_inflated):
    full = toy_counts()
    cells = np.arange(0, 30, 2)
    withheld = full[cells].multiply(full[cells] > 2).minimum(1.0).tocsr()
    held_out = objectives.HeldOut(full[cells] - withheld, withheld, np.zeros(15, np.int64), 0.1)
    objective = thinning(full, held_out, zero_inflated=zero_inflated)
    objective.network.eval()
    before = {name: value.clone() for name, value in objective.network.state_dict().items()}
    whole = objective.validation_loss()
    monkeypatch.setattr(cell_blocks, "EVALUATION_CELLS", 4)
    objective.validation = None  # the blocks are made anew
    assert objective.validation_loss() == pytest.approx(whole, rel=1e-5)
    assert len(objective.validation) == 4
    for name, value in objective.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert thinning(full).validation_loss() is None


def test_validation_moves_the_dropout_curve_to_its_depth():
    """As estimates do; the curve was learned where cells had half as many molecules."""
    full, batch = toy_counts(), np.zeros(30, np.int64)
    withheld = full.minimum(1.0).tocsr()

    def loss(log_depth, moved=0.0):
        held_out = objectives.HeldOut(full - withheld, withheld, batch, 0.5, log_depth)
        objective = thinning(full, held_out, zero_inflated=True)
        with torch.no_grad():
            objective.network.move_dropout_curve(moved)
        return objective.validation_loss()

    assert loss(np.log(2)) == pytest.approx(loss(0.0, moved=np.log(2)), rel=1e-6)
    assert loss(np.log(2)) != pytest.approx(loss(0.0), rel=1e-3)


@pytest.mark.parametrize(("kept", "least"), [(0.3, 0.0), (0.8, 0.0), (0.8, 0.4)])
def test_the_optimiser_adds_the_gradient_of_the_prior(kept, least):
    """An epoch equals steps on the loss plus the scored share / cells x sum v^T S^-1 v / 2.

    S is the square of the scale for the encoder and the offsets, any for the loadings; of log
    theta v is the distance to the trend. Of the molecules 1 - f (1 - q) are scored, of what the
    counts of a gene say of its mean q + (1 - q) theta (1 - f) / (f m + theta).
    """
    options = {
        "kept_low": kept,
        "kept_high": kept,
        "loading_scale": 0.05,
        "least_scored": least,
    }
    ours, plain = (thinning(toy_counts(), **options) for _ in range(2))
    n_latent = len(ours.network.loading_covariance)
    root = torch.randn(n_latent, n_latent, generator=torch.manual_seed(0)) * 0.01
    covariance = root @ root.T + 0.05**2 * torch.eye(n_latent)
    ours.network.loading_covariance.copy_(covariance)
    ours.network.dispersion_prior.copy_(torch.tensor([2.0, 0.5, 0.01]))
    log_mean = torch.as_tensor(np.log(toy_counts().toarray().mean(0)))
    config = ours.config.replace(max_epochs=1, batch_size=10)
    training.train(ours, config)

    state = training.TrainingState(plain, config, n_steps=3)
    network, mean = plain.network.train(), log_mean.exp()
    start = network.inverse_dispersion.detach()
    divided = start * (1 - kept) / (kept * mean + start)
    hidden = ((least - divided) / (1 - divided)).clamp_min(0)
    assert bool(hidden.any()) == (least > 0)
    of_molecules = (hidden * mean).sum() / mean.sum()
    for step, cells in enumerate(plain.minibatches(10, state.order), 1):
        squares = network.input_weight.square().sum() / 0.05**2
        solved = torch.linalg.solve(covariance, network.loadings.T)
        far = (network.log_theta - 2.0 - 0.5 * log_mean).square() / 0.01
        theta = network.log_theta.detach().exp()
        scored = hidden + (1 - hidden) * theta * (1 - kept) / (kept * mean + theta)
        offsets = network.batch_offset.square().sum(0)
        of_genes = (scored * ((network.loadings.T * solved).sum(0) + far + offsets)).sum()
        prior = ((1 - (1 - of_molecules) * kept) * squares + of_genes) / 2 / 30
        loss = plain.step_loss(cells, step) + prior
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.scheduler.step()
    for name in ("loadings", "input_weight", "bias", "log_theta"):
        pair = (getattr(objective.network, name) for objective in (ours, plain))
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def test_offsets_of_batches_have_a_prior_of_width_one():
    """As far as the step scores what their gene says of its mean; nothing else adds to them."""
    counts = counts_of_means([0.5, 3.0, 98.0], n_cells=20)
    objective = thinning(counts, n_batches=2, kept_low=0.5, kept_high=0.5)
    network = objective.network
    offset = network.batch_offset
    with torch.no_grad():
        offset.copy_(torch.arange(6.0).reshape(2, 3))
    cells = next(iter(objective.minibatches(10, np.random.default_rng(0))))
    objective.step_loss(cells, 1).backward()
    before = offset.grad.clone()
    objective.add_prior_gradient()
    divided = torch.tensor([0.5 / 1.25, 0.2, 0.01])  # theta is 1
    hidden = ((0.45 - divided) / (1 - divided)).clamp_min(0)
    scored = hidden + (1 - hidden) * divided
    torch.testing.assert_close(scored, torch.full((3,), 0.45))
    torch.testing.assert_close(offset.grad - before, 0.45 * offset.detach() / 20)


def test_priors_are_minded_every_step_and_learned_after_every_epoch():
    objective = Scripted([1.0, 0.9, 0.8])
    run(objective, max_epochs=3)
    assert objective.gradients == [-1.0] * 6
    assert objective.learned_after == [2, 4, 6]


def test_a_loss_that_is_not_finite_is_refused_before_the_prior_is_learned():
    objective = Scripted([1.0], at_step=lambda n, loss: loss * math.inf)
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        run(objective, max_epochs=1)
    assert objective.learned_after == []


@pytest.mark.parametrize("name", ["loadings", "log_theta"])
def test_weights_that_are_not_finite_teach_nothing(name):
    objective = thinning(toy_counts())
    priors = (objective.network.loading_covariance, objective.network.dispersion_prior)
    before = [prior.clone() for prior in priors]
    with torch.no_grad():
        getattr(objective.network, name).view(-1)[0] = math.nan
    objective._cells_encoded = 1
    objective.end_epoch()
    assert all(map(torch.equal, priors, before))


@pytest.mark.parametrize("least", [0.0, 0.3])
def test_the_prior_is_learned_from_the_embeddings_of_the_steps(least):
    """What an epoch leaves in S is one step of EM on all that was encoded."""
    objective = thinning(toy_counts(), least_scored=least)
    hidden = objective.hiding.share.double()
    assert bool(hidden.any()) == (least > 0)
    before = objective.network.loading_covariance.clone()
    torch.testing.assert_close(before, 0.07**2 * torch.eye(len(before)).double())
    objective.network.train()
    embedded, encode = [], objective.network.encode
    objective.network.encode = lambda *given, **options: (
        embedded.append(encode(*given, **options)) or embedded[-1]
    )
    for step, cells in enumerate(objective.minibatches(10, np.random.default_rng(0)), 1):
        objective.step_loss(cells, step)
    objective.end_epoch()
    z = torch.cat(embedded).detach().double()
    counts, theta = toy_counts().toarray(), objective.network.inverse_dispersion.detach().double()
    mean = torch.as_tensor(counts.mean(0)).double()
    kept = np.linspace(0.4, 0.9, 9).tolist()
    scored = loading_prior.scored_share(mean, theta, kept=kept, hidden_share=hidden)
    known = len(counts) * scored * mean / (1 + mean / theta)
    updated = updated_covariance(
        before, objective.network.loadings, z.T @ z / len(z), known, smallest_variance=0.07**2
    )
    torch.testing.assert_close(objective.network.loading_covariance, updated)


@pytest.mark.parametrize("least", [0.0, 0.3])
def test_the_trend_of_theta_is_learned_from_what_the_steps_score(least):
    """One step after the epoch; genes without molecules count as with half a molecule."""
    dense = toy_counts().toarray()
    dense[:, 0] = 0
    counts = sparse.csr_matrix(dense)
    objective = thinning(counts, kept_low=0.5, kept_high=0.5, least_scored=least)
    with torch.no_grad():
        objective.network.log_theta += torch.linspace(-1, 1, counts.shape[1])
    hidden = objective.hiding.share.double()
    assert bool(hidden.any()) == (least > 0)
    cells = next(iter(objective.minibatches(10, np.random.default_rng(0))))
    objective.step_loss(cells, 1)
    objective.end_epoch()
    molecules = np.maximum(counts.toarray().sum(0), 0.5)
    mean = torch.as_tensor(molecules / counts.shape[0]).double()
    log_theta = objective.network.log_theta.detach().double()
    of_all, of_kept = (log_theta_information(m, log_theta.exp()) for m in (mean, mean / 2))
    known = counts.shape[0] * (of_all - (1 - hidden) * of_kept)
    expected = updated_trend(DispersionPrior(), log_theta, mean.log(), known)
    found = objective.network.dispersion_prior.tolist()
    assert found == pytest.approx(tuple(expected), rel=1e-5)
    objective.step_loss(cells, 2)
    objective.end_epoch(pooled=lambda values: values * 0 + 3)  # what all processes agree on
    assert objective.network.dispersion_prior.tolist() == [3.0, 3.0, 3.0]
    assert found != pytest.approx(tuple(DispersionPrior()), abs=0.01)


def test_dispersions_learn_faster_than_weights():
    groups = thinning(toy_counts(), zero_inflated=True).parameter_groups()
    *others, fast = (group.get("rate") for group in groups)
    assert fast == objectives.THETA_RATE
    assert set(others) == {None}
    assert sum(len(group["params"]) for group in groups) == len(
        list(count_network(toy_counts()).parameters())
    )


@pytest.mark.parametrize("theta", [100.0, 1e4, 1e6])
@pytest.mark.parametrize("mu", [1e-3, 0.1])
def test_float32_learns_theta_in_the_direction_of_float64(mu, theta):
    """Rare genes with Poisson-like counts: theta must not follow rounding errors.

    A gradient in log theta below 1e-6 per gene and 128 cells moves nothing by itself, but
    Adam scales whatever comes first.
    """
    rng = np.random.default_rng(0)
    mean = mu * rng.lognormal(0, 0.3, (128, 200))
    counts = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    target = counts.copy()
    target.data = rng.binomial(counts.data.astype(int), 0.4).astype(np.float32)
    part = objectives._measured_entries(counts, target, 0.6, CPU)
    losses, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        log_theta = torch.full((200,), math.log(theta), dtype=dtype, requires_grad=True)
        mu, none = torch.as_tensor(mean, dtype=dtype), torch.zeros(200, dtype=dtype)
        # z = 1 for one cell each, so that its loadings are the logarithms of its means
        factors = SoftmaxMean(torch.eye(128, dtype=dtype), mu.log().T, none, mu.sum(1))
        inverse = RankOneTheta(log_theta.exp(), torch.ones(128, dtype=dtype))
        loss = softmax_loss(factors, inverse, None, part)
        loss.backward()
        losses.append(loss.item())
        gradients.append(log_theta.grad.double().numpy())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0.01, atol=1e-5)


# --- the paper's objective ------------------------------------------------------------


def paper_objective(*, validation=(), l2=0.0, zero_inflated=False, graph=0.5, seed=0):
    counts = toy_counts()
    upper = np.triu(np.random.default_rng(0).random((8, 8)) < graph, 1).astype(np.float32)
    adjacency = sparse.csr_matrix(upper + upper.T)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PaperNetwork(
            n_genes=8,
            n_latent=3,
            n_hidden=6,
            dropout_rate=0.0,
            edges=torch.as_tensor(np.stack(np.nonzero(adjacency.toarray() + np.eye(8)))),
            median_library=16.0,
            zero_inflated=zero_inflated,
        )
        return objectives.PaperObjective(
            network,
            counts,
            np.zeros(30, np.int64),
            PAPER.replace(l2=l2, dropout_rate=0.0, n_latent=3, n_hidden=6),
            device=CPU,
            log_normalized=counts.log1p(),
            adjacency=adjacency,
            normalized_adjacency=normalized_adjacency(adjacency),
            validation=np.asarray(validation, dtype=np.int64),
        )


def test_paper_objective_leaves_validation_cells_out():
    objective = paper_objective(validation=[0, 4, 29])
    assert objective.n_cells == 27
    assert not set(objective.training) & {0, 4, 29}
    assert objective.expression.shape == (8, 27)
    assert objective.gene_encoder.hidden.weight.shape[0] == 27


def test_paper_loss_is_the_sum_of_its_terms():
    """Expression and KL per cell, KL of genes and edges shared by all cells, plus L2."""
    objective, cells = paper_objective(graph=1.0), np.arange(0, 30, 3)
    loss = objective.step_loss(minibatch(objective, cells), 1).item()
    gene_keys = row_keys(np.arange(8), step_key(objective.config.seed, 1, GENES), CPU)
    cell_keys = row_keys(cells, step_key(objective.config.seed, 1, CELLS), CPU)
    with torch.no_grad():
        mean, log_variance = objective.gene_encoder(
            objective.expression, objective.normalized_adjacency
        )
        z = objectives._sample(mean, log_variance, gene_keys)
        block = cell_blocks.cell_block(objective.counts, objective.batch, cells, CPU)
        network = objective.decoder
        posterior = network.encode(block, network.reconstruct_edges(z))
        z_cell = objectives._sample(*posterior, cell_keys)
        mu, theta, _ = (
            None if value is None else value.double().numpy()
            for value in network.decode(z_cell, z, block.library)
        )
    normal = torch.distributions.Normal(0.0, 1.0)
    kl_genes, kl_cells = (
        torch.distributions.kl_divergence(torch.distributions.Normal(m, (v / 2).exp()), normal)
        .sum()
        .item()
        for m, v in ((mean, log_variance), posterior)
    )
    nll = -stats.nbinom.logpmf(objective.counts[cells].toarray(), theta, theta / (theta + mu)).sum()
    upper = np.triu_indices(8, 1)  # the graph is complete: every pair is an edge
    edges = np.log1p(np.exp(-(z @ z.T).numpy()[upper])).sum()
    truth = (nll + kl_cells) / 10 + (edges + kl_genes) / 30
    assert loss == pytest.approx(truth, rel=1e-5)


def test_l2_is_half_the_squared_encoder_weights():
    plain, penalised = paper_objective(), paper_objective(l2=0.1)
    encoder, decoder = penalised.gene_encoder, penalised.decoder
    weights = [
        encoder.hidden.weight,
        encoder.posterior.weight,
        decoder.cell_graph_layer.weight,
        decoder.cell_hidden.weight,
        decoder.cell_posterior.weight,
    ]
    squares = sum(weight.square().sum().item() for weight in weights)
    losses = [
        objective.step_loss(minibatch(objective, np.arange(30)), 1).item()
        for objective in (plain, penalised)
    ]
    assert losses[1] - losses[0] == pytest.approx(0.05 * squares, rel=1e-3)


def test_edge_loss_is_unbiased():
    """The sampled non-edges stand for all of them; no edge is among the sample."""
    objective = paper_objective(graph=0.4)
    z = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    logits = (z @ z.T).double().numpy()
    joined = objective.edge_keys.tolist()
    truth = sum(
        np.log1p(np.exp(-logits[i, j] if i * 8 + j in joined else logits[i, j]))
        for i in range(8)
        for j in range(i + 1, 8)
    )
    keys = (step_key(0, step, PAIRS) for step in range(200))
    sampled = np.array([float(objective._edge_loss(z, key)) for key in keys])
    assert abs(sampled.mean() - truth) < 5 * sampled.std() / np.sqrt(200)
    assert sampled.std() > 0


def test_the_end_of_an_epoch_freezes_the_genes_and_validation_changes_nothing():
    objective = paper_objective(validation=[0, 4, 29])
    objective.network.eval()
    objective.end_epoch()
    frozen = {name: value.clone() for name, value in objective.network.state_dict().items()}
    first = objective.validation_loss()
    assert first == objective.validation_loss()
    for name, value in objective.network.state_dict().items():
        assert torch.equal(value, frozen[name])
    mean, _ = objective.gene_encoder(objective.expression, objective.normalized_adjacency)
    torch.testing.assert_close(objective.decoder.gene_mean, mean.detach())
    assert paper_objective().validation_loss() is None


def test_every_parameter_of_both_objectives_learns():
    for objective in (
        paper_objective(zero_inflated=True),
        thinning(toy_counts(), zero_inflated=True),
    ):
        before = {n: p.detach().clone() for n, p in objective.network.named_parameters()}
        training.train(objective, Config(max_epochs=2, batch_size=10))
        after = dict(objective.network.named_parameters())
        unchanged = {name for name in before if torch.equal(after[name], before[name])}
        # there is one batch: nothing to learn of it
        assert unchanged == {"input_batch", "batch_offset"} & before.keys()
        assert len(before) >= 10
