"""Counts per molecule: told from the counts, and what a model makes of reads."""

import re
import warnings

import numpy as np
import pytest
from anndata import AnnData
from matplotlib import pyplot
from scipy import optimize, sparse
from typer.testing import CliRunner

from graphsci import GraphSCI, cli, pl, read_counts, tl
from graphsci.io import write_anndata
from graphsci.io.sources import MemoryCounts
from graphsci.training import copies as copying
from graphsci.training.copies import find_copies

pytestmark = pytest.mark.filterwarnings("ignore:These counts look like reads")


def molecules(n_cells=400, n_genes=150, seed=0):
    """Two types of cells; NB of theta 2, gene means .05 to 5, libraries that differ."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(0.05, 5, n_genes) * np.exp(0.3 * rng.normal(size=(n_cells, 1)))
    mean[: n_cells // 2, ::5] *= 4
    return rng.negative_binomial(2, 2 / (2 + mean))


def reads(counts, copies, seed=1):
    """Every molecule is read a geometric number of times, ``copies`` in the mean."""
    rng = np.random.default_rng(seed)
    return np.where(counts > 0, rng.negative_binomial(np.maximum(counts, 1), 1 / (1 + copies)), 0)


def found(counts):
    return find_copies(MemoryCounts(sparse.csr_matrix(counts, dtype=np.float32)))


# --- what the counts tell -------------------------------------------------------------


def test_molecules_are_molecules():
    seen = found(molecules())
    assert not seen.seen
    assert 0.9 < seen.of_zeros < 1.5
    assert not seen.certain
    assert seen.divisor == seen.left(np.ones(150)) == 1
    np.testing.assert_array_equal(seen.divisors(0), 1)
    np.testing.assert_array_equal(seen.divisors(7), 7)


@pytest.mark.parametrize("factor", [7, 30, 1000])
def test_multiplied_counts_give_multiplied_numbers(factor):
    """All cells together; groups are made anew of what was multiplied."""
    counts = sparse.csr_matrix(molecules(), dtype=np.float32)
    one, many = (copying._tell(sparse.csr_matrix(x)) for x in (counts, factor * counts))
    np.testing.assert_allclose(many.of_zeros, factor * one.of_zeros, rtol=1e-4)
    np.testing.assert_allclose(many.of_variance, factor * one.of_variance, rtol=1e-4)
    seen = found(factor * counts.toarray())
    assert seen.of_zeros == pytest.approx(factor, rel=0.3)
    assert seen.certain
    assert factor <= seen.divisor < 2 * factor


def test_geometric_copies():
    """c in the mean over molecules, and 2 c + 1 in that over reads, which the noise follows."""
    seen = found(reads(molecules(), 40))
    assert 35 < seen.of_zeros < 55
    assert 70 < seen.of_variance < 140
    assert seen.divisor == seen.of_variance
    assert np.log(seen.relative).std() < 0.15


def test_zeros_against_a_root_finder():
    counts = sparse.csr_matrix(reads(molecules(50, 30), 10), dtype=np.float32)
    size_factors = np.asarray(counts.sum(1)).ravel() / counts.sum(1).mean()
    seen, mean = counts.getnnz(axis=0), np.asarray(counts.mean(0), dtype=float).ravel()
    genes = np.flatnonzero((seen > 4) & (seen < 45))
    got = copying._of_zeros(mean[genes], seen[genes], size_factors)
    for gene, c in zip(genes, got, strict=True):

        def excess(c, m=mean[gene], n=seen[gene]):
            return np.exp(-size_factors * m / c).sum() - 50 + n

        assert c == pytest.approx(optimize.brentq(excess, 1e-3, 1e4), rel=1e-4)


def test_variance_of_poisson_molecules():
    """Multiplied Poisson counts of one rate vary c times as much as their mean, by definition."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(12 * rng.poisson(0.5, (4000, 40)), dtype=np.float32)
    np.testing.assert_allclose(copying._of_variance(counts, np.ones(4000)), 12, rtol=0.15)


def test_a_panel_of_markers_is_no_sign_of_copies():
    """Ten types of cells with twenty markers each, of eight molecules in their own type."""
    rng = np.random.default_rng(0)
    kind = np.arange(600) % 10
    mean = np.where(np.arange(200) // 20 == kind[:, None], 8.0, 0.01)
    counts = rng.poisson(mean)
    over_all = copying._tell(sparse.csr_matrix(counts, dtype=np.float32)).of_zeros
    assert np.quantile(over_all, 0.25) > copying.SIGN_OF_COPIES
    assert not found(counts).seen


def test_few_genes_tell_nothing():
    seen = found(molecules(100, 9))
    assert seen[:4] == (1.0, 1.0, 1, 100)
    np.testing.assert_array_equal(seen.relative, 1)


@pytest.mark.parametrize("n_cells", [5, 25, 45])
def test_few_cells_are_one_group(n_cells):
    """And reads are told of them, if not with certainty."""
    seen = found(reads(molecules(n_cells), 8))
    assert seen.n_cells == n_cells
    assert n_cells == 5 or (seen.seen and not seen.certain)
    assert n_cells == 5 or f"{n_cells} cells are too few to tell" in str(seen)


@pytest.mark.parametrize("n_reads", [50, 200, 320])
def test_batches_that_were_not_counted_alike(n_reads):
    counts = molecules()
    counts[:n_reads] = reads(counts[:n_reads], 20)
    source = MemoryCounts(sparse.csr_matrix(counts, dtype=np.float32))
    seen = find_copies(source, batch=(np.arange(400) >= n_reads).astype(np.int64))
    assert seen.unlike
    assert not seen.certain
    assert seen.lowest < 2
    assert 10 < seen.highest < 40
    assert seen.left(seen.divisors(0)) == seen.highest
    alike = find_copies(source, batch=np.arange(400) % 2)  # not its batches: groups may still tell
    assert not alike.certain or n_reads == 320


def test_a_batch_of_one_cell_and_a_shallow_batch():
    """The one says nothing; the other's molecules are few beside the reads, and are seen."""
    counts = molecules()
    counts[:200] = reads(counts[:200], 500)
    batch = np.r_[np.zeros(200), np.ones(199), 2].astype(np.int64)
    seen = find_copies(MemoryCounts(sparse.csr_matrix(counts, dtype=np.float32)), batch=batch)
    assert seen.unlike
    assert seen.lowest < 2
    one_cell = sparse.csr_matrix([[1.0, 2.0]], dtype=np.float32)
    assert find_copies(MemoryCounts(one_cell)).of_zeros == 1


def test_very_shallow_cells_do_not_decide():
    counts = reads(molecules(), 20)
    shallow = counts.copy()
    shallow[:20] = np.random.default_rng(0).binomial(counts[:20], 0.002)
    one, other = found(counts), found(shallow)
    assert other.of_zeros == pytest.approx(one.of_zeros, rel=0.1)
    assert other.of_variance == pytest.approx(one.of_variance, rel=0.1)


def test_genes_that_are_read_more_often_are_told():
    """As long transcripts are, where all of them is read."""
    rng = np.random.default_rng(2)
    factor = np.exp(rng.normal(0, 0.9, 150))
    seen = found(reads(molecules(), 40 * factor))
    told = seen.relative != 1
    assert 60 < told.sum() < 150  # some are in nearly all cells
    assert np.corrcoef(np.log(seen.relative[told]), np.log(factor[told]))[0, 1] > 0.95
    slope, _ = np.polyfit(np.log(factor[told]), np.log(seen.relative[told]), 1)
    assert 0.8 < slope < 1.1


def test_dropout_is_not_taken_for_copies():
    """It leaves alike what it leaves: variances say less than zeros."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(40 * rng.gamma(20, 0.05, (400, 150))) * (rng.random((400, 150)) > 0.5)
    seen = found(counts)
    assert seen.of_zeros > copying.SIGN_OF_COPIES
    assert not seen.seen
    model = GraphSCI(max_epochs=1, check=False).fit(AnnData(counts.astype(np.float32)))
    assert model.copies() is None
    assert model.fitted.spec.likelihood == "zinb"


def test_some_cells_of_many_are_read():
    """Five stretches of 400 cells, from the first to the last."""
    asked = []

    class Source(MemoryCounts):
        def rows(self, start, stop):
            asked.append((start, stop))
            return super().rows(start, stop)

    find_copies(Source(sparse.csr_matrix(molecules(4100, 20), dtype=np.float32)))
    assert asked == [(0, 400), (925, 1325), (1850, 2250), (2775, 3175), (3700, 4100)]


def only_at(cells, counts, n_cells=12_000):
    """``counts`` (cells, genes) in some of many cells, the others empty."""
    placed = sparse.lil_matrix((n_cells, counts.shape[1]), dtype=np.float32)
    placed[cells] = counts
    return placed.tocsr()


def test_where_all_places_are_empty_the_first_cells_with_counts_tell():
    counts = reads(molecules(100), 40)
    cells = np.arange(3_950, 4_050)  # between two of the five places, over the end of a chunk
    seen = find_copies(MemoryCounts(only_at(cells, counts)), batch=np.arange(12_000) // 6_000)
    alone = found(counts[:50])
    assert seen[:4] == alone[:4]
    assert seen.n_cells == 50
    np.testing.assert_array_equal(seen.relative, alone.relative)


def test_no_cell_with_counts_tells_nothing():
    seen = find_copies(MemoryCounts(sparse.csr_matrix((3_000, 7), dtype=np.float32)))
    assert seen[:4] == (1.0, 1.0, 1, 0)
    assert not seen.seen
    np.testing.assert_array_equal(seen.divisors(0), 1)


# --- what is made of it ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        (lambda counts, rng: counts, None),
        (lambda counts, rng: 3 * counts, r"a multiple of 3, .* divided by 3 and rounded"),
        (
            lambda counts, rng: counts + rng.poisson(2 * counts),
            r"these look like reads.* for one\.",
        ),
        (lambda counts, rng: 5_000 * counts, r"a multiple of 5000, .* divided by 5e\+03 and"),
    ],
    ids=["molecules", "multiplied", "copies", "many copies"],
)
@pytest.mark.parametrize("check", [True, False])
def test_copies_of_molecules_are_told_from_molecules(copied, said, check):
    """Sparse and overdispersed: NB of theta 0.2, most of the genes rare."""
    rng = np.random.default_rng(0)
    mean = np.tile(rng.gamma(0.5, 0.2, 300), (200, 1))
    counts = rng.negative_binomial(0.2, 0.2 / (0.2 + mean))
    counts[:, 0] += rng.integers(100, 500, 200)  # as an abundant gene
    counts = copied(counts, rng).astype(np.float32)
    model = GraphSCI(max_epochs=1, check=check, graph="none").fit(AnnData(counts))
    signs = [note for note in model.fitted.notes if note.startswith("counts: ")]
    assert (signs == []) == (said is None)
    assert said is None or re.search(said, signs[0])


def test_a_division_is_warned_of_unless_it_was_asked_for():
    counts = AnnData(reads(molecules(), 20).astype(np.float32))
    with pytest.warns(UserWarning, match=r"look like reads: they were divided by \d\d\.?\d*, the"):
        GraphSCI(max_epochs=1, check=False).fit(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GraphSCI(max_epochs=1, check=False, copies=30).fit(counts)


def test_counts_that_may_be_none_are_not_divided():
    counts = reads(molecules(), 20)
    flat = AnnData(np.rint(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32))
    with pytest.warns(UserWarning, match="one library size"):
        model = GraphSCI(max_epochs=1).fit(flat)
    assert model.copies() is None
    assert model.fitted.copies_left > 4


def test_half_a_count_is_no_molecule():
    with pytest.raises(ValueError, match=r"copies: got 0\.5, expected 0 \(chosen for you\) or at"):
        GraphSCI(copies=0.5)


def test_reads_taken_for_molecules_are_warned_of_and_doubtful():
    counts = AnnData(reads(molecules(150), 8).astype(np.float32))  # few cells: less certain
    with pytest.warns(UserWarning, match=r"about \d\.?\d* of each molecule, and were taken"):
        model = GraphSCI(max_epochs=60).fit(counts)
    assert model.verdict.copies == model.fitted.copies_left > 4
    assert model.verdict.status == "doubtful"
    assert not model.verdict.passed
    assert "held-out copies of kept ones" in model.verdict.headline()
    with pytest.warns(UserWarning, match="look like reads") as heard:
        tl.impute(counts.copy(), max_epochs=60, progress=False)
    assert [str(one.message)[:30] for one in heard] == ["These counts look like reads, "]
    asked = GraphSCI(max_epochs=5, copies=16).fit(counts)
    assert asked.verdict.copies == asked.fitted.copies_left == 1
    assert any("divided by 16" in note for note in asked.fitted.notes)


@pytest.fixture(scope="module")
def divided():
    """A model of reads that were divided, its data, and the molecules they are of."""
    truth = molecules()
    adata = AnnData(reads(truth, 40).astype(np.float32))
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    return GraphSCI(seed=0, max_epochs=20).fit(adata), adata, truth


def test_estimates_are_on_the_scale_of_the_reads(divided):
    model, adata, _ = divided
    copies = model.copies()
    assert copies.median() > 20
    estimates = ("mean", "denoised", "imputed")
    model.impute(adata, estimates=estimates, interval=0.9)
    total = adata.X.sum()
    for name in estimates:
        assert adata.layers[name].sum() == pytest.approx(total, rel=0.1)
    assert (adata.layers["denoised_lower"] <= adata.layers["denoised_upper"]).all()
    measured = adata.X > 0  # nb: the counts themselves, to the last bit
    np.testing.assert_array_equal(adata.layers["imputed"][measured], adata.X[measured])
    record = adata.uns["graphsci"]
    assert record["copies"] == copies.median()
    np.testing.assert_array_equal(adata.var["graphsci_copies"], copies)
    assert record["common_depth"] == pytest.approx(np.median(adata.X.sum(1)), rel=0.1)
    np.testing.assert_array_equal(adata.obs["graphsci_library"], adata.X.sum(1))
    log = adata.copy()
    model.impute(log, scale="log1p", depth="common")
    of_molecules = (adata.X / copies.to_numpy()).sum(1, keepdims=True)
    factors = of_molecules / model.fitted.spec.common_depth
    expected = np.log1p(adata.layers["denoised"] / factors)
    np.testing.assert_allclose(log.layers["denoised"], expected, rtol=1e-3, atol=1e-3)


def test_twice_the_copies_are_twice_the_estimates():
    """Copies and their number doubled, all that is learned is the same."""
    counts = reads(molecules(), 40).astype(np.float32)
    one, two = AnnData(counts), AnnData(2 * counts)
    for adata, copies in ((one, 32), (two, 64)):
        tl.impute(adata, copies=copies, max_epochs=2, check=False, progress=False)
    np.testing.assert_array_equal(two.layers["denoised"], 2 * one.layers["denoised"])
    np.testing.assert_array_equal(two.obsm["X_graphsci"], one.obsm["X_graphsci"])


def test_molecules_are_nearer_than_without_division(divided):
    """Squared error of square roots against the rates that the molecules were drawn at."""
    model, adata, truth = divided
    with pytest.warns(UserWarning, match="were taken for molecules"):
        naive = GraphSCI(seed=0, max_epochs=20, copies=1).fit(adata)
    rate = np.geomspace(0.05, 5, truth.shape[1]) * np.where(
        (np.arange(len(truth)) < len(truth) // 2)[:, None] & (np.arange(truth.shape[1]) % 5 == 0),
        4,
        1,
    )
    expected = np.sqrt(rate / rate.sum(1, keepdims=True))

    def error(fitted):
        small = AnnData(adata.X, var=adata.var[[]])
        fitted.impute(small)
        share = small.layers["denoised"] / small.layers["denoised"].sum(1, keepdims=True)
        return np.square(np.sqrt(share) - expected).mean()

    assert error(model) < 0.5 * error(naive)


def test_pictures_are_of_molecules(divided):
    """Poisson's line is where molecules lie, and the learned curve's means are theirs."""
    model, adata, _ = divided
    adata = adata.copy()
    model.impute(adata)
    dots, copies = pl.dropout_curve(adata).lines[0], model.copies().to_numpy()
    means = (adata.X / copies).mean(0)
    assert np.corrcoef(np.log(np.sort(dots.get_xdata())), np.log(np.sort(means)))[0, 1] > 0.99
    assert np.median(dots.get_xdata()) == pytest.approx(np.median(means), rel=0.3)
    line = pl.mean_variance(adata).lines[-1]
    assert line.get_ydata()[0] / line.get_xdata()[0] == pytest.approx(np.median(copies))
    assert "of molecules" in line.get_label()
    assert "molecules at common depth" in pl.dispersion(adata).get_xlabel()
    assert "a Poisson molecule" in pl.uncertainty(adata).lines[-1].get_label()
    pyplot.close("all")


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_the_same_numbers_from_disk(divided, tmp_path, form):
    """Trained, estimated and written in chunks of cells."""
    _, adata, _ = divided
    source, found = tmp_path / f"reads.{form}", []
    names = adata.var[[]]
    write_anndata(AnnData(sparse.csr_matrix(adata.X), var=names), source)
    for backed in ("--backed", "--no-backed"):
        output = tmp_path / f"{backed}.{form}"
        done = CliRunner().invoke(
            cli.app, ["impute", str(source), "-o", str(output), backed, "--max-epochs", "2"]
        )
        assert done.exit_code == 0, done.output
        found.append(read_counts(output))
    one, other = found
    np.testing.assert_array_equal(one.layers["denoised"], other.layers["denoised"])
    np.testing.assert_array_equal(one.X.toarray(), adata.X)
    assert one.uns["graphsci"]["copies"] == other.uns["graphsci"]["copies"] > 20


@pytest.mark.filterwarnings("ignore:.*fit the model worse")
def test_new_cells_that_were_counted_otherwise_are_told(divided, tmp_path):
    model, adata, truth = divided
    new = AnnData(molecules(100, seed=5).astype(np.float32))
    new.var_names = adata.var_names
    with pytest.warns(UserWarning, match=r"about 1\.?\d* counts for each molecule.* had [5-9]\d"):
        model.impute(new)
    assert any("Train on cells that were counted alike" in n for n in new.uns["graphsci"]["notes"])
    of_molecules = AnnData(truth.astype(np.float32), var=adata.var[[]])
    usual = GraphSCI(max_epochs=20).fit(of_molecules)
    more = AnnData(reads(molecules(100, seed=5), 40).astype(np.float32), var=adata.var[[]])
    with pytest.warns(UserWarning, match=r"about [34]\d.* had 1:"):
        usual.impute(more)
    alike = AnnData(reads(molecules(100, seed=5), 40).astype(np.float32), var=adata.var[[]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.impute(alike)
    usual.save(tmp_path / "model")
    write_anndata(more, tmp_path / "more.h5ad")
    paths = [str(tmp_path / name) for name in ("model", "more.h5ad", "out.h5ad")]
    args = ["apply", *paths[:2], "-o", paths[2], "--overwrite"]
    done = CliRunner().invoke(cli.app, args)
    assert done.exit_code == 0, done.output
    assert "Train on cells that were counted alike" in " ".join(done.output.split())


def test_a_saved_model_divides_as_before(divided, tmp_path):
    model, adata, _ = divided
    model.save(tmp_path / "model")
    again, first, second = GraphSCI.load(tmp_path / "model"), adata.copy(), adata.copy()
    model.impute(first)
    again.impute(second)
    np.testing.assert_array_equal(first.layers["denoised"], second.layers["denoised"])
    assert again.fitted.copies_left == model.fitted.copies_left


def test_a_model_of_cells_among_many_that_are_empty():
    """Five places of the data are looked at for reads; none of them has a count."""
    counts = only_at(np.arange(1_000, 1_100), molecules(100, 30))
    adata = AnnData(counts)
    model = GraphSCI(max_epochs=1, check=False, graph="none").fit(adata)
    model.impute(adata)
    assert adata.layers["denoised"][1_000:1_100].sum() > 0
    assert not adata.layers["denoised"][:1_000].any()
