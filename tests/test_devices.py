"""The choice of a device, and on a GPU the same numbers as on a CPU, every time."""

import numpy as np
import pytest
import torch

from graphsci import GraphSCI
from graphsci.nn import cell_random, devices
from graphsci.nn import fused_likelihood as fused
from graphsci.nn import likelihood as lk

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_unknown_devices_are_refused():
    assert devices.choose_device("cpu") == CPU
    for name in ("tpu9", "mps", "cuda:x"):
        with pytest.raises(ValueError, match=f"device: got '{name}', expected auto, cpu, cuda"):
            devices.choose_device(name)
    with pytest.raises(ValueError, match=r"'cuda:77', but \d+ CUDA devices are visible.*--device"):
        devices.choose_device("cuda:77")


def _fail_repeatably():
    with devices.repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        raise KeyError


@pytest.mark.parametrize("asked", [False, True])
def test_switches_of_torch_are_put_back(asked):
    """Also after an error; on a CPU they are not touched at all."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(asked, warn_only=asked)
    try:
        with devices.repeatable(CPU):
            assert torch.are_deterministic_algorithms_enabled() == asked
        with pytest.raises(KeyError):
            _fail_repeatably()
        assert torch.are_deterministic_algorithms_enabled() == asked
        assert torch.is_deterministic_algorithms_warn_only_enabled() == asked
        assert torch.utils.deterministic.fill_uninitialized_memory == filled
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("theta", [1e-3, 0.7, 30.0, 1e5])
def test_both_ways_to_rising_factorials_agree(theta):
    n = torch.arange(0.0, 60, dtype=torch.float64)
    start = torch.full_like(n, theta)
    multiplied, direct = (
        way(start, n) for way in (lk.log_rising_factorial, lk._log_rising_factorial_by_gamma)
    )
    torch.testing.assert_close(direct, multiplied, rtol=1e-9, atol=1e-9)


@gpu
def test_random_numbers_are_those_of_a_cpu():
    """Bit by bit; counts small and large, normal numbers up to their last digits."""
    rng = np.random.default_rng(0)
    counts = np.concatenate([rng.poisson(2, 5_000), rng.integers(0, 10**6, 300)])
    rows, columns = rng.integers(0, 100, (2, len(counts)))
    drawn, uniform, normal = {}, {}, {}
    for kind in ("cpu", "cuda"):
        device = torch.device(kind)
        keys = cell_random.row_keys(np.arange(100), cell_random.step_key(0, 1, 1), device)
        move = lambda values: torch.as_tensor(values).to(device)  # noqa: B023, E731
        drawn[kind] = cell_random.binomial(
            move(counts).float(), 0.37, keys=keys, rows=move(rows), columns=move(columns)
        ).cpu()
        uniform[kind] = cell_random.uniform(keys, 300, 1).cpu()
        normal[kind] = cell_random.normal(keys, 300).cpu()
    assert torch.equal(drawn["cuda"], drawn["cpu"])
    assert torch.equal(uniform["cuda"], uniform["cpu"])
    torch.testing.assert_close(normal["cuda"], normal["cpu"], rtol=1e-5, atol=1e-6)


def denoised(model, data, batch_key=None):
    """Estimate of the rates, (cells, genes)."""
    return model.impute(data, batch_key=batch_key, copy=True).layers["denoised"]


def some_block(n_cells, n_genes, device, dtype):
    """Parameters of a block and its measured entries, the same on every device."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 2.0, (n_cells, n_genes)))
    kept = rng.binomial(counts, 0.6)
    rows, columns = np.nonzero(counts)
    at, move = (rows, columns), lambda values: torch.as_tensor(values).to(device)
    entries = [move(part[at]).to(dtype) for part in (kept, counts - kept)]
    thinned = lk.ThinnedBlock(move(rows), move(columns), *entries, 0.6)
    z, loadings = rng.normal(size=(n_cells, 16)), 0.3 * rng.normal(size=(n_genes, 16))
    mean = z, loadings, rng.normal(size=n_genes), counts.sum(1) + 1.0
    values = *mean, rng.gamma(2, 2, n_genes), rng.gamma(4, 0.25, n_cells)
    leaves = [move(value).to(dtype).requires_grad_() for value in values]
    return leaves, thinned


@gpu
@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-5), (True, 2e-2)])
@pytest.mark.parametrize("zero_inflated", [False, True])
def test_loss_and_gradients_are_those_of_float64_on_a_cpu(zero_inflated, bfloat16, tolerance):
    """Relative error of the loss, and of every gradient as a whole (norms)."""
    found = {}
    for device, dtype in ((CPU, torch.float64), (torch.device("cuda"), torch.float32)):
        leaves, thinned = some_block(64, 900, device, dtype)
        curve = torch.tensor([0.2, -1.1], dtype=dtype, device=device).requires_grad_()
        mean, theta = fused.SoftmaxMean(*leaves[:4]), fused.RankOneTheta(*leaves[4:])
        wanted = [*leaves, curve] if zero_inflated else leaves
        low = bfloat16 and dtype == torch.float32
        loss = fused.softmax_loss(
            mean, theta, curve if zero_inflated else None, thinned, bfloat16=low
        )
        grads = torch.autograd.grad(loss, wanted)
        found[device.type] = [value.detach().double().cpu() for value in (loss, *grads)]
    for ours, truth in zip(found["cuda"], found["cpu"], strict=True):
        assert torch.linalg.vector_norm(ours - truth) <= tolerance * torch.linalg.vector_norm(truth)


@gpu
@pytest.mark.parametrize(("zero_inflated", "arrays"), [(False, 5), (True, 26)])
def test_a_large_block_takes_the_memory_of_a_few_small_ones(zero_inflated, arrays):
    """One block of 2^23 means; in work are so many arrays of 2^21 entries."""
    leaves, thinned = some_block(3_000, 8_000, torch.device("cuda"), torch.float32)
    mean, theta = fused.SoftmaxMean(*leaves[:4]), fused.RankOneTheta(*leaves[4:])
    curve = torch.tensor([0.2, -1.1], device="cuda").requires_grad_() if zero_inflated else None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused.softmax_loss(mean, theta, curve, thinned).backward()
    allowed = 4 * (fused._ENTRIES_IN_BLOCK + arrays * fused._ENTRIES_ON_GPU)
    allowed += 20 * sum(part.nbytes for part in thinned[:4])
    assert torch.cuda.max_memory_allocated() - before < allowed


MODELS = [
    {"likelihood": "nb"},
    {"likelihood": "zinb", "graph": "none"},
    {"likelihood": "nb", "graph": "pearson", "precision": "bf16"},
    {"likelihood": "nb", "preset": "paper"},
]


@gpu
@pytest.mark.parametrize(
    ("options", "batch_key"),
    [*((options, None) for options in MODELS), *((options, "batch") for options in MODELS[:3])],
)
def test_a_fit_repeats_itself_bit_by_bit(toy, options, batch_key):
    """With batches, too, but for the preset 'paper', which has none."""
    one, other = (
        GraphSCI(max_epochs=5, device="cuda", seed=3, **options).fit(toy, batch_key=batch_key)
        for _ in range(2)
    )
    first, second = (model.fitted.network.state_dict() for model in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    np.testing.assert_array_equal(denoised(one, toy, batch_key), denoised(other, toy, batch_key))


@gpu
@pytest.mark.parametrize("options", MODELS, ids=lambda options: "-".join(options.values()))
def test_a_fit_learns_what_a_cpu_learns(toy, options):
    """The same losses at first; rounding errors grow, but not what is reported."""
    on = {kind: GraphSCI(max_epochs=12, device=kind, seed=3, **options) for kind in ("cpu", "cuda")}
    estimates = {kind: denoised(model.fit(toy), toy) for kind, model in on.items()}
    history = {kind: model.fitted.history for kind, model in on.items()}
    assert history["cuda"][0].training_loss == pytest.approx(
        history["cpu"][0].training_loss, rel=5e-3
    )
    assert history["cuda"][-1].validation_loss == pytest.approx(
        history["cpu"][-1].validation_loss, rel=1e-2
    )
    assert np.corrcoef(estimates["cuda"].ravel(), estimates["cpu"].ravel())[0, 1] > 0.995


@gpu
def test_a_model_goes_from_a_gpu_to_a_cpu(toy, tmp_path):
    model = GraphSCI(max_epochs=5, device="cuda", likelihood="nb").fit(toy)
    model.save(tmp_path / "model")
    here = GraphSCI.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(denoised(here, toy), denoised(model, toy), rtol=1e-4, atol=1e-5)
