"""Held-out designs: seeded, leak-free, and what they say they are."""

import numpy as np
import pytest
import scipy.sparse as sp

from graphsci.evaluation import designs

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    return sp.csr_matrix(RNG(0).poisson(RNG(1).gamma(0.5, 4.0, size=(150, 80))))


def test_molecules_are_in_exactly_one_part(counts):
    split = designs.hold_out_molecules(counts, fraction=0.2, rng=RNG(0))
    assert np.array_equal((split.kept + split.held_out).toarray(), counts.toarray())
    assert split.held_out.sum() == pytest.approx(0.2 * counts.sum(), rel=0.05)
    assert split.ratio == pytest.approx(0.25)


def test_molecule_parts_are_independent_given_the_rates():
    """Counts of one rate: kept says nothing about held out (|r| < 4 / sqrt(n))."""
    counts = sp.csr_matrix(RNG(0).poisson(5.0, size=(200, 200)))
    split = designs.hold_out_molecules(counts, fraction=0.5, rng=RNG(1))
    r = np.corrcoef(split.kept.toarray().ravel(), split.held_out.toarray().ravel())[0, 1]
    assert abs(r) < 4 / 200


def test_hidden_entries_do_not_reach_the_training_counts(counts):
    split = designs.hold_out_entries(counts, fraction=0.1, rng=RNG(0))
    assert len(split.values) == round(0.1 * counts.nnz)
    assert (np.asarray(split.masked[split.cells, split.genes]) == 0).all()
    restored = split.masked.tolil()
    restored[split.cells, split.genes] = split.values
    assert np.array_equal(restored.toarray(), counts.toarray())


def test_cells_are_on_exactly_one_side():
    split = designs.hold_out_cells(11, rng=RNG(0))
    assert sorted([*split.train, *split.test]) == list(range(11))
    assert (len(split.train), len(split.test)) == (9, 2)


def test_depth_truth_never_sees_the_shallow_counts(counts):
    depth = float(np.median(np.asarray(counts.sum(1))))
    split = designs.thin_to_depth(counts, median_library_size=depth / 4, rng=RNG(0))
    assert np.array_equal((split.shallow + split.rest).toarray(), counts.toarray())
    assert split.fraction == pytest.approx(0.25)
    assert np.allclose(split.truth.toarray(), split.rest.toarray() / 3)
    assert np.median(np.asarray(split.shallow.sum(1))) == pytest.approx(depth / 4, rel=0.1)
    assert split.truth.sum() == pytest.approx(split.shallow.sum(), rel=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda counts, rng: designs.hold_out_molecules(counts, rng=rng),
        lambda counts, rng: designs.hold_out_entries(counts, rng=rng),
        lambda counts, rng: designs.hold_out_cells(counts.shape[0], rng=rng),
        lambda counts, rng: designs.thin_to_depth(counts, median_library_size=50, rng=rng),
    ],
    ids=["molecules", "entries", "cells", "depth"],
)
def test_a_seed_fixes_the_design_and_the_input_stays(counts, make):
    before = counts.copy()
    first, second, third = (make(counts, RNG(seed)) for seed in (3, 3, 4))
    assert _same(first, second)
    assert not _same(first, third)
    assert (counts != before).nnz == 0


def test_bad_designs_are_refused(counts):
    with pytest.raises(ValueError, match="fraction is 1"):
        designs.hold_out_molecules(counts, fraction=1.0, rng=RNG(0))
    with pytest.raises(ValueError, match="fraction is 0"):
        designs.hold_out_entries(counts, fraction=0, rng=RNG(0))
    with pytest.raises(ValueError, match="hides none of the 2 non-zero entries"):
        designs.hold_out_entries(np.eye(2), fraction=0.1, rng=RNG(0))
    with pytest.raises(ValueError, match="0 of 2 cells in the test set"):
        designs.hold_out_cells(2, rng=RNG(0))
    with pytest.raises(ValueError, match="thinning cannot deepen"):
        designs.thin_to_depth(counts, median_library_size=1e9, rng=RNG(0))
    with pytest.raises(ValueError, match="not whole numbers"):
        designs.hold_out_molecules(counts * 0.5, rng=RNG(0))


def _same(first: tuple, second: tuple) -> bool:
    dense = [[x.toarray() if sp.issparse(x) else x for x in split] for split in (first, second)]
    return all(np.array_equal(a, b) for a, b in zip(*dense, strict=True))
