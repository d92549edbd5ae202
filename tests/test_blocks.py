"""Counts in chunks: memory and disk give the same rows, minibatches, splits and models."""

import threading
import tracemalloc
import weakref

import anndata
import numpy as np
import pytest
import torch
import zarr
from anndata import AnnData
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci.io import read_counts, sources, write_anndata
from graphsci.preprocessing import extract_counts, open_counts
from graphsci.training import blocks, copies, holding_out


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 cells, of which three may be in memory."""
    for module in (sources, blocks, holding_out):
        monkeypatch.setattr(module, "CHUNK_CELLS", 16)
    for name in ("preprocessing._values", "_imputing.estimating"):
        monkeypatch.setattr(f"graphsci.{name}.CHUNK_CELLS", 16)
    monkeypatch.setattr(blocks, "MEMORY_CELLS", 48)
    monkeypatch.setattr(copies, "CELLS", 48)


def on_disk(adata: AnnData, folder, kind: str, **options) -> AnnData:
    """Write and open again, the matrix left in the file."""
    sparse_data = adata.copy()
    sparse_data.X = sparse.csr_matrix(adata.X) if kind != "dense" else np.asarray(adata.X)
    path = folder / ("data.zarr" if kind == "zarr" else "data.h5ad")
    write_anndata(sparse_data, path, **options)
    return read_counts(path, backed=True)


def weights(fitted) -> dict[str, torch.Tensor]:
    return fitted.network.state_dict()


# --- the same rows --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "dense"])
def test_rows_on_disk_are_the_rows_in_memory(tmp_path, toy, kind, small_chunks):
    stored = on_disk(toy, tmp_path, kind)
    there, here = open_counts(stored, batch_key="batch"), extract_counts(toy, batch_key="batch")
    assert isinstance(there.counts, sources.DiskCounts)
    assert there.counts.shape == here.counts.shape
    assert there.counts.n_entries == here.counts.nnz
    for start, stop in [(0, 120), (0, 1), (7, 8), (33, 90), (119, 120)]:
        rows = there.counts.rows(start, stop)
        assert rows.dtype == np.float32
        assert rows.has_canonical_format
        assert (rows != here.counts[start:stop]).nnz == 0
    for one, other in zip(there[1:], here[1:], strict=True):
        assert np.array_equal(one, other)


def test_explicit_zeros_duplicates_and_other_dtypes_do_not_matter(tmp_path):
    data, columns = np.array([1, 2, 0, 3, 5]), np.array([2, 0, 1, 1, 1])
    matrix = sparse.csr_matrix((data, columns, [0, 3, 5]), shape=(2, 3), dtype=np.int16)
    assert not matrix.has_canonical_format
    stored = on_disk(AnnData(matrix), tmp_path, "h5ad")
    counts = open_counts(stored).counts
    assert counts.rows(0, 2).toarray().tolist() == [[2, 0, 1], [0, 8, 0]]
    assert counts.n_entries == 3


def test_counts_in_memory_stay_where_they_are(toy):
    toy.X = sparse.csr_matrix(toy.X)
    source = open_counts(toy).counts
    assert isinstance(source, sources.MemoryCounts)
    assert np.shares_memory(source.matrix.data, toy.X.data)


# --- training chunks ------------------------------------------------------------------


def training_blocks(adata: AnnData, seed: int = 0) -> blocks.TrainingBlocks:
    data = open_counts(adata, allow_fractional=True)
    cells, genes = np.flatnonzero(~data.empty_cells), np.flatnonzero(~data.undetected_genes)
    return blocks.TrainingBlocks(data.counts, cells, genes, seed=seed)


def test_chunks_hold_the_training_cells_and_genes(toy, small_chunks):
    counts = training_blocks(toy)
    assert counts.shape == (119, 59)
    assert counts.n_chunks == 8
    expected = np.delete(np.delete(toy.X, 7, 0), 5, 1)
    assert np.array_equal(counts.read(np.arange(8)).toarray(), expected)
    assert np.array_equal(counts.chunk(7).toarray(), expected[112:])
    whole = [chunk.toarray() for chunk in blocks.chunks_in_order(counts)]
    assert np.array_equal(np.concatenate(whole), expected)


def test_rounding_is_the_same_whenever_a_chunk_is_read(toy, small_chunks):
    toy.X = toy.X * 0.7
    counts = training_blocks(toy)
    assert (counts.chunk(3) != counts.chunk(3)).nnz == 0
    assert counts.was_rounded
    assert np.array_equal(np.rint(counts.chunk(3).data), counts.chunk(3).data)
    assert (training_blocks(toy, seed=1).chunk(3) != counts.chunk(3)).nnz > 0


@pytest.mark.parametrize(
    ("n_cells", "n_entries", "at_once"),
    [
        (100, 1000, 100),
        (20_000, 20_000 * 1000, 20_000),
        (20_001, 20_001 * 1000, 20_000),
        (10**6, 10**9, 20_000),
        (10**6, 10**6 * 3355, 10_000),  # 33.5 million counts
        (10**6, 10**6 * 30_000, 2_000),  # never less than a chunk
        (10_000, 10_000 * 8000, 4_000),
        (1_500, 1_500 * 30_000, 1_500),  # never more than there are
    ],
)
def test_cells_at_once(n_cells, n_entries, at_once):
    assert blocks.cells_at_once(n_cells, n_entries) == at_once


# --- what is held out -----------------------------------------------------------------


def poisson_blocks(n_cells=400, n_genes=50, mean=3.0) -> blocks.MemoryBlocks:
    counts = np.random.default_rng(0).poisson(mean, (n_cells, n_genes))
    return blocks.MemoryBlocks(sparse.csr_matrix(counts.astype(np.float32)))


@pytest.mark.parametrize("share_of_cells", [0.0, 0.3, 1.0])
def test_both_parts_add_up_and_come_out_the_same_in_any_order(small_chunks, share_of_cells):
    whole = poisson_blocks()
    chosen = np.random.default_rng(1).random(400) < share_of_cells
    thinning = blocks.Thinning(0.1, chosen, seed=5)
    first = [thinning.divide(i, whole.chunk(i)) for i in range(whole.n_chunks)]
    for index in reversed(range(whole.n_chunks)):
        kept, held_out = thinning.divide(index, whole.chunk(index))
        assert (kept + held_out != whole.chunk(index)).nnz == 0
        assert (kept != first[index][0]).nnz == 0
        assert (held_out != first[index][1]).nnz == 0
        assert kept.has_canonical_format
        assert (kept.data > 0).all()
        assert not held_out[~chosen[index * 16 : index * 16 + kept.shape[0]]].nnz
    seen = blocks.KeptBlocks(whole, thinning).read(np.arange(whole.n_chunks))
    assert (seen != blocks.stack([kept for kept, _ in first])).nnz == 0


def test_held_out_molecules_are_binomial(small_chunks):
    """Against scipy: chi-square of the held-out number among entries of the same count."""
    whole, f = poisson_blocks(2000, 50), 0.2
    thinning = blocks.Thinning(f, np.ones(2000, dtype=bool), seed=3)
    parts = [thinning.divide(i, whole.chunk(i)) for i in range(whole.n_chunks)]
    x, t = whole.counts.toarray(), blocks.stack([held for _, held in parts]).toarray()
    for count in range(1, 7):
        observed = np.bincount(t[x == count].astype(int), minlength=count + 1)
        expected = stats.binom.pmf(np.arange(count + 1), count, f) * observed.sum()
        enough = expected > 5
        assert observed[~enough].sum() <= 20
        p = stats.chisquare(
            observed[enough], expected[enough] * observed[enough].sum() / expected[enough].sum()
        ).pvalue
        assert p > 1e-4, count


def test_chunks_are_divided_independently(small_chunks):
    """The same counts in two chunks, and under two seeds, are divided differently."""
    counts = sparse.csr_matrix(np.full((16, 50), 4, dtype=np.float32))
    everyone = np.ones(64, dtype=bool)
    held = [
        blocks.Thinning(0.5, everyone, seed).divide(index, counts)[1].toarray().ravel()
        for index, seed in [(0, 0), (1, 0), (0, 1)]
    ]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(held[one], held[other])[0, 1]) < 0.15


# --- shuffling ------------------------------------------------------------------------


@pytest.mark.parametrize(("n_cells", "batch_size"), [(200, 7), (200, 64), (33, 32), (10, 20)])
def test_every_cell_comes_once_with_its_counts(small_chunks, n_cells, batch_size):
    counts = blocks.MemoryBlocks(sparse.csr_matrix(np.arange(1, n_cells + 1.0)[:, None]))
    batches = list(blocks.shuffled(counts, batch_size, np.random.default_rng(0)))
    cells = np.concatenate([batch.cells for batch in batches])
    assert np.array_equal(np.sort(cells), np.arange(n_cells))
    assert np.array_equal(blocks.stack([b.counts for b in batches]).toarray()[:, 0], cells + 1)
    assert len(batches) == max(1, n_cells // batch_size)
    assert {len(batch.cells) for batch in batches[:-1]} <= {batch_size}


def test_few_cells_are_shuffled_fully_and_many_in_groups(small_chunks):
    def order(n_cells, seed):
        counts = blocks.MemoryBlocks(sparse.csr_matrix(np.ones((n_cells, 1))))
        batches = blocks.shuffled(counts, 4, np.random.default_rng(seed))
        return np.concatenate([batch.cells for batch in batches])

    in_one = order(48, 0)  # three chunks, the number that fits
    assert len(set(in_one[:24] // 16)) == 3
    many = order(480, 0)  # 30 chunks in groups of three
    groups = [set(many[at : at + 48] // 16) for at in range(0, 480, 48)]
    assert all(len(group) <= 4 for group in groups)
    assert len(set(many[:48] // 16)) >= 3
    assert np.array_equal(many, order(480, 0))
    assert not np.array_equal(many, order(480, 1))


class Counting(blocks.CountBlocks):
    """Chunks that know how many of their rows are alive."""

    def __init__(self, n_cells: int, n_genes: int = 3) -> None:
        self.shape, self.n_entries = (n_cells, n_genes), n_cells * n_genes
        self.alive, self.most, self.n_read, self.lock = 0, 0, 0, threading.Condition()

    def chunk(self, index: int) -> sparse.csr_matrix:
        rows = len(blocks.cells_of(index, self.shape[0]))
        return sparse.csr_matrix(np.ones((rows, self.shape[1]), dtype=np.float32))

    def read(self, chunks):
        counts = super().read(chunks)
        with self.lock:
            self.alive += counts.shape[0]
            self.most = max(self.most, self.alive)
            self.n_read += counts.shape[0]
            self.lock.notify_all()
        weakref.finalize(counts, self.forget, counts.shape[0])
        return counts

    def forget(self, n_rows: int) -> None:
        with self.lock:
            self.alive -= n_rows


def test_rows_in_flight_are_bounded(small_chunks):
    """At most two groups: the one in use and the one that is read ahead."""
    counts = Counting(1600)
    for number, _ in enumerate(blocks.shuffled(counts, 10, np.random.default_rng(0))):
        in_use = (number * 10 + 9) // 48  # the group that the last of these cells is from
        ahead = min(1600, (in_use + 2) * 48)
        with counts.lock:  # the reader has all the time that it needs, however busy the machine
            assert counts.lock.wait_for(lambda at=ahead: counts.n_read >= at, timeout=60)
            assert counts.n_read == ahead
    assert counts.most == 2 * 48
    assert counts.alive == 0


def test_an_epoch_that_is_left_early_leaves_no_thread(small_chunks):
    batches = blocks.shuffled(Counting(1600), 10, np.random.default_rng(0))
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("graphsci-reader")]


def test_an_error_while_reading_ahead_reaches_the_caller(small_chunks):
    class Failing(Counting):
        def chunk(self, index):
            if index == 9:
                raise OSError("gone")
            return super().chunk(index)

    with pytest.raises(OSError, match="gone"):
        list(blocks.shuffled(Failing(1600), 10, np.random.default_rng(0)))


# --- the same model -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("many", [True, False])
def test_training_on_disk_gives_the_model_of_training_in_memory(tmp_path, toy, kind, many, request):
    if many:
        request.getfixturevalue("small_chunks")
    options = {"max_epochs": 3, "seed": 2, "graph": "pearson"}
    here = GraphSCI(**options).fit(toy, batch_key="batch").fitted
    stored = on_disk(toy, tmp_path, kind)
    there = GraphSCI(**options).fit(stored, batch_key="batch").fitted
    assert all(torch.equal(value, weights(there)[name]) for name, value in weights(here).items())
    assert here.verdict == there.verdict
    assert here.notes == there.notes
    assert (here.spec.graph.adjacency != there.spec.graph.adjacency).nnz == 0
    assert np.array_equal(here.spec.gene_proportions, there.spec.gene_proportions)
    assert any("many cells" in note for note in here.notes) == many
    if many:
        assert here.verdict.n_cells == 28  # 48 looked at, 20 of them decide


def test_the_paper_preset_trains_from_disk(tmp_path, toy, small_chunks):
    options = {"preset": "paper", "max_epochs": 2}
    here = GraphSCI(**options).fit(toy).fitted
    there = GraphSCI(**options).fit(on_disk(toy, tmp_path, "h5ad")).fitted
    assert all(torch.equal(value, weights(there)[name]) for name, value in weights(here).items())


def test_what_the_sample_holds_out_never_reaches_training(toy, small_chunks, monkeypatch):
    """Many cells: the same kept parts with other held-out molecules give the same weights.

    How far a gene follows the state is no weight: the test of variation asks withheld molecules
    which directions of the embedding are real. Nor is how uncertain its mean is, which rests on it.
    """
    options = {"max_epochs": 2, "validation_fraction": 0.0}
    plain = GraphSCI(**options).fit(toy).fitted
    real = blocks.thin_counts

    def more_held_out(counts, **arguments):
        kept, held_out = real(counts, **arguments)
        return kept, held_out * 50

    # the data with fifty times the held-out molecules, whose kept parts are as before
    data = extract_counts(toy)
    cells, genes = np.flatnonzero(~data.empty_cells), np.flatnonzero(~data.undetected_genes)
    counts = blocks.TrainingBlocks(sources.MemoryCounts(data.counts), cells, genes, seed=0)
    thinning = holding_out.split_counts(counts, plain.spec.config).kept.thinning
    parts = [thinning.divide(i, counts.chunk(i)) for i in range(counts.n_chunks)]
    other = toy.copy()
    other.X[np.ix_(cells, genes)] += 49 * blocks.stack([held for _, held in parts]).toarray()
    assert other.X.sum() > 2 * toy.X.sum()

    class Known(blocks.Thinning):
        def divide(self, index, counts):
            return parts[index][0], parts[index][1] * 50

    monkeypatch.setattr(holding_out, "Thinning", Known)
    changed = GraphSCI(**options).fit(other).fitted
    trained = weights(plain)
    for name in [name for name in trained if name.startswith(("state_weight", "uncertainty."))]:
        trained.pop(name)
    assert all(torch.equal(value, weights(changed)[name]) for name, value in trained.items())
    assert (plain.spec.graph.adjacency != changed.spec.graph.adjacency).nnz == 0
    assert plain.spec.median_library == changed.spec.median_library
    assert plain.verdict != changed.verdict


def peak_of_a_run_on_disk(folder, n_cells: int) -> float:
    """MiB that numpy and Python took at most for training and for estimates of one gene."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.6, (n_cells, 800)).astype(np.float32))
    path = folder / f"{n_cells}.h5ad"
    write_anndata(AnnData(counts), path)
    del counts
    stored = read_counts(path, backed=True)
    tracemalloc.start()
    model = GraphSCI(max_epochs=1, graph="none", likelihood="nb").fit(stored)
    for block in model.iterate_estimates(stored, genes=["7"]):
        assert block.values["denoised"].shape[1] == 1
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_counts(tmp_path, small_chunks):
    """Names, library sizes and the like grow, by far less than the counts would."""
    peak_of_a_run_on_disk(tmp_path, 100)  # modules that are imported on first use
    peaks = [peak_of_a_run_on_disk(tmp_path, n) for n in (500, 3500)]
    counts = 3000 * 800 * 0.45 * 8 / 2**20  # MiB of the additional cells as CSR
    assert counts > 8
    assert peaks[1] - peaks[0] < 0.2 * counts


# --- bad files ------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "counts"])
def test_columns_on_disk_are_refused(tmp_path, toy, layer):
    toy.X = sparse.csc_matrix(toy.X)
    toy.layers["counts"] = toy.X
    write_anndata(toy, tmp_path / "columns.h5ad")
    stored = read_counts(tmp_path / "columns.h5ad", backed=True)
    with pytest.raises(ValueError, match=r" is stored by columns \(CSC\), expected rows") as error:
        GraphSCI(max_epochs=1).fit(stored, layer=layer)
    where = "adata.X" if layer is None else "adata.layers['counts']"
    assert str(error.value).startswith(where)
    assert str(error.value).endswith(f"store it as CSR: {where} = {where}.tocsr().")


def test_values_on_disk_are_checked_to_the_last_row(tmp_path, toy, small_chunks):
    toy.X[119, 3] = -1
    stored = on_disk(toy, tmp_path, "h5ad")
    with pytest.raises(ValueError, match=r"holds negative values \(1, "):
        open_counts(stored)
    toy.X[119, 3] = 0.5
    stored.file.close()
    stored = on_disk(toy, tmp_path, "h5ad")
    with pytest.raises(ValueError, match=r"1 values that are not whole numbers \(0% of the non"):
        open_counts(stored)


def test_a_file_that_loses_a_chunk_is_an_error_not_zeros(tmp_path, toy, small_chunks):
    stored = on_disk(toy, tmp_path, "zarr")
    counts = open_counts(stored).counts
    counts.rows(0, 16)
    for name in ("data", "indices"):
        folder = tmp_path / "data.zarr" / "X" / name
        for piece in folder.iterdir():
            if not piece.name.startswith("."):  # the metadata stays
                piece.unlink()
    with pytest.raises(OSError, match="not what they were when the counts were checked"):
        counts.rows(0, 16)


def test_a_closed_file_says_so(tmp_path, toy):
    stored = on_disk(toy, tmp_path, "h5ad")
    counts = open_counts(stored).counts
    stored.file.close()
    with pytest.raises(OSError, match=r"cells 0 to 5 of adata.X could not be read.*moved, removed"):
        counts.rows(0, 5)


def test_a_file_that_goes_away_ends_the_training(tmp_path, toy, small_chunks):
    """Closed under the run's feet; a file that was only removed is kept alive by the system."""
    stored = on_disk(toy, tmp_path, "h5ad")
    model = GraphSCI(max_epochs=5, check=False)
    with pytest.raises(OSError, match="moved, removed or closed"):
        model.fit(stored, progress=lambda record, n_epochs: stored.file.close())


def test_zarr_of_either_format_is_read(tmp_path, toy):
    for number in (2, 3):
        group = zarr.open_group(tmp_path / f"{number}.zarr", mode="w", zarr_format=number)
        toy.X = sparse.csr_matrix(toy.X)
        with anndata.settings.override(auto_shard_zarr_v3=False):
            anndata.io.write_elem(group, "/", toy)
        stored = read_counts(tmp_path / f"{number}.zarr", backed=True)
        assert (open_counts(stored).counts.rows(0, 120) != toy.X).nnz == 0
