"""The layers against dense algebra, hand-worked graphs, scipy's distributions, and laws."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from torch import nn
from torch.autograd import gradcheck

from graphsci.gene_graph.graph import normalized_adjacency
from graphsci.nn import model, model_parts, paper_model, sparse_product
from graphsci.nn.cell_random import CELLS, row_keys, step_key
from graphsci.nn.likelihood import thinned_nb_loss, thinned_zinb_loss
from graphsci.preprocessing import log_normalize

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def fixed(matrix) -> sparse_product.FixedMatrix:
    return sparse_product.FixedMatrix.of(sparse.csr_matrix(np.asarray(matrix)), dtype=DOUBLE)


def block_of(counts: np.ndarray, batch: np.ndarray | None = None) -> model_parts.CellBlock:
    csr = sparse.csr_matrix(counts)
    return model_parts.CellBlock(
        torch.as_tensor(csr.indptr).long(),
        torch.as_tensor(csr.indices).long(),
        torch.as_tensor(csr.data).to(DOUBLE),
        torch.as_tensor(counts.sum(1)).to(DOUBLE),
        torch.as_tensor(np.zeros(len(counts), int) if batch is None else batch),
    )


def keyed(block: model_parts.CellBlock, seed: int = 0) -> model_parts.CellBlock:
    """Return the block as training sees it, with the keys of its random numbers."""
    key = step_key(seed, 1, CELLS)
    return block._replace(keys=row_keys(np.arange(block.n_cells), key, torch.device("cpu")))


def block_for(network: nn.Module, counts: np.ndarray, batch=None) -> model_parts.CellBlock:
    """Return a block in the network's own precision: the default network is float32 only."""
    block, dtype = block_of(counts, batch), next(network.parameters()).dtype
    return block._replace(counts=block.counts.to(dtype), library=block.library.to(dtype))


def counts_of(n_cells=6, n_genes=9, seed=0, mean=2.0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (n_cells, n_genes)).astype(float)


def set_all(network: nn.Module, seed: int = 3, scale: float = 0.5) -> None:
    """Give every parameter a value, so that none hides behind a start at zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def count_network(n_genes=9, *, n_batches=1, zero_inflated=False, averaging=None):
    network = model.CountNetwork(
        gene_proportions=torch.full((n_genes,), 1 / n_genes),
        n_latent=3,
        n_hidden=5,
        dropout_rate=0.5,
        median_library=20.0,
        n_batches=n_batches,
        zero_inflated=zero_inflated,
        averaging=averaging,
    )
    set_all(network)
    return network.eval()


#: A chain 0 - 1 - 2 - ... of nine genes, both directions, and every gene with itself.
CHAIN = np.eye(9, k=1) + np.eye(9, k=-1)
#: Averages over the neighbours in the chain.
AVERAGES = sparse.csr_matrix(CHAIN / CHAIN.sum(1, keepdims=True))


def edges_of(adjacency: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.stack(np.nonzero(adjacency + np.eye(len(adjacency))))).long()


def paper_network(adjacency=CHAIN, *, zero_inflated=True, dropout_rate=0.5):
    network = paper_model.PaperNetwork(
        n_genes=len(adjacency),
        n_latent=3,
        n_hidden=5,
        dropout_rate=dropout_rate,
        edges=edges_of(adjacency),
        median_library=20.0,
        zero_inflated=zero_inflated,
    )
    set_all(network)
    network = network.double().eval()
    network.freeze_genes(random(len(adjacency), 3, seed=5))
    return network


# --- blocks of cells ------------------------------------------------------------------


def test_block_by_hand():
    block = block_of(np.array([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert block.n_cells == 3
    assert block.rows().tolist() == [0, 0, 2]
    assert block.dense(block.counts, 3).tolist() == [[0, 3, 1], [0, 0, 0], [2, 0, 0]]
    # size factors 4 / 8 and 2 / 8
    expected = np.log1p([3 / 0.5, 1 / 0.5, 2 / 0.25])
    np.testing.assert_allclose(block.log_normalized(8.0).numpy(), expected)


# --- graph convolution (eq. 3-4) ------------------------------------------------------


def test_blocks_are_normalised_as_preprocessing_does():
    """Cells of less than one molecule (fractional counts) and of none, too."""
    counts = counts_of(5) * np.array([[1.0], [0.3], [0.01], [0.0], [20.0]])
    block = block_of(counts)
    found = block.dense(block.log_normalized(12.0), counts.shape[1]).numpy()
    expected = log_normalize(sparse.csr_matrix(counts), median_library_size=12.0)
    np.testing.assert_allclose(found, expected.toarray(), rtol=1e-5)


def test_products_of_a_fixed_matrix_are_scipys():
    """Rows and columns without an entry among them; gradients too."""
    matrix = sparse.random_array((7, 5), density=0.3, rng=np.random.default_rng(0), format="csr")
    matrix = sparse.csr_matrix(sparse.block_diag([matrix, np.zeros((1, 2))]))
    dense = random(7, 3).requires_grad_()
    product = sparse_product.FixedMatrix.of(matrix, dtype=DOUBLE).times(dense)
    np.testing.assert_allclose(product.detach().numpy(), matrix @ dense.detach().numpy())
    assert gradcheck(sparse_product.FixedMatrix.of(matrix, dtype=DOUBLE).times, dense)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_graph_convolution_matches_dense_algebra(layout):
    adjacency = np.triu(np.random.default_rng(0).random((7, 7)) < 0.4, 1).astype(float)
    adjacency += adjacency.T
    with_loops = adjacency + np.eye(7)
    scale = np.diag(with_loops.sum(1) ** -0.5)
    layer = paper_model.GraphConvolution(4, 3).double()
    x = random(7, 4)
    operator = fixed(normalized_adjacency(sparse.csr_matrix(adjacency)).toarray())
    ours = layer(x if layout == "dense" else fixed(x), operator).detach().numpy()
    truth = scale @ with_loops @ scale @ x.numpy() @ layer.weight.detach().numpy()
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-7)


def test_graph_convolution_on_a_chain_of_three_by_hand():
    """Degrees with the loop 2, 3, 2: the end hears itself by 1/2 and the middle by 1/sqrt 6."""
    layer = paper_model.GraphConvolution(1, 1).double()
    nn.init.constant_(layer.weight, 2.0)
    chain = sparse.csr_matrix(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    operator = fixed(normalized_adjacency(chain).toarray())
    x = torch.tensor([[1.0], [10.0], [100.0]]).double()
    truth = [
        2 * (1 / 2 + 10 / 6**0.5),
        2 * (1 / 6**0.5 + 10 / 3 + 100 / 6**0.5),
        2 * (10 / 6**0.5 + 100 / 2),
    ]
    assert layer(x, operator).ravel().tolist() == pytest.approx(truth, rel=1e-6)


def test_gene_encoder_follows_equations_3_and_4():
    encoder = (
        paper_model.GeneEncoder(n_cells=6, n_hidden=4, n_latent=2, dropout_rate=0.5).double().eval()
    )
    adjacency = normalized_adjacency(sparse.csr_matrix(CHAIN)).toarray()
    x = random(9, 6)
    a, w0 = torch.as_tensor(adjacency).to(DOUBLE), encoder.hidden.weight
    both = a @ torch.relu(a @ x @ w0) @ encoder.posterior.weight
    mean, log_variance = encoder(x, fixed(adjacency))
    torch.testing.assert_close(mean, both[:, :2])
    torch.testing.assert_close(log_variance, both[:, 2:])


def test_standardized_rows_without_a_dense_matrix():
    x = np.abs(random(9, 6).numpy()) * (random(9, 6).numpy() > 0)
    truth = stats.zscore(x, axis=1)
    x[4], truth[4] = 3.0, 0.0  # does not vary
    found = sparse_product.StandardizedMatrix.of(sparse.csr_matrix(x), dtype=DOUBLE)
    weight = random(6, 4).requires_grad_()
    torch.testing.assert_close(found.times(weight), torch.as_tensor(truth) @ weight)
    assert gradcheck(found.times, [weight])


# --- the masked layer (eq. 5) ---------------------------------------------------------


def dense_weight(layer: paper_model.MaskedGraphLinear, n_genes: int, mask=None) -> torch.Tensor:
    weight = layer.weight if mask is None else layer.weight * mask
    dense = torch.zeros(n_genes, n_genes, dtype=DOUBLE)
    return dense.index_put(tuple(layer.edges), weight)


def directed_edges() -> torch.Tensor:
    """Random ordered pairs, not symmetric: the two directions have weights of their own."""
    return torch.as_tensor(
        np.stack(np.nonzero(np.random.default_rng(2).random((9, 9)) < 0.3))
    ).long()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("products_at_once", [1, 20, 1 << 24])
def test_masked_layer_matches_the_dense_formula(monkeypatch, masked, products_at_once):
    """Value and gradients; ``products_at_once`` must not matter."""
    monkeypatch.setattr(paper_model._MaskedProduct, "products_at_once", products_at_once)
    layer = paper_model.MaskedGraphLinear(9, directed_edges()).double()
    nn.init.normal_(layer.bias, generator=seeded(4))
    x, upstream = random(4, 9), random(4, 9, seed=9)
    mask = torch.rand(len(layer.weight), generator=seeded(1), dtype=DOUBLE) if masked else None
    if masked:
        mask.requires_grad_()
    dense = x @ dense_weight(layer, 9, mask) + layer.bias
    torch.testing.assert_close(layer(x, mask), dense)
    sources = [layer.weight, layer.bias, *([mask] if masked else [])]
    ours = torch.autograd.grad((layer(x, mask) * upstream).sum(), sources)
    truth = torch.autograd.grad((dense * upstream).sum(), sources)
    for one, other in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, other)


def test_masked_product_gradcheck():
    layer, x = paper_model.MaskedGraphLinear(9, directed_edges()), random(4, 9)
    order = layer.edges, layer.sources, layer.by_target, layer.offsets
    weight = random(len(layer.weight), seed=7).requires_grad_()
    assert gradcheck(lambda w: paper_model._MaskedProduct.apply(x, w, *order), (weight,))


def test_a_masked_layer_follows_the_edges_that_it_loads():
    """Edges come with the weights; what is derived from them must not stay behind."""
    edges, x = directed_edges(), random(4, 9)
    layer, other = (
        paper_model.MaskedGraphLinear(9, order).double() for order in (edges, edges.flip(1))
    )
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))


def test_masked_layer_by_hand():
    """Edges 0 -> 1 (weight 2), 1 -> 0 (weight 3), 2 -> 2 (weight 5)."""
    layer = paper_model.MaskedGraphLinear(3, torch.tensor([[0, 1, 2], [1, 0, 2]])).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0, 5.0]))
        layer.bias.copy_(torch.tensor([0.5, 0.0, 0.0]))
    out = layer(torch.tensor([[1.0, 10.0, 100.0]]).double())
    assert out.tolist() == [[30.5, 2.0, 500.0]]


def test_a_gene_without_an_edge_gives_its_bias():
    layer = paper_model.MaskedGraphLinear(3, torch.empty(2, 0, dtype=torch.long)).double()
    out = layer(random(2, 3))
    assert torch.equal(out, torch.zeros(2, 3, dtype=DOUBLE))
    out.sum().backward()


# --- the published network ------------------------------------------------------------


def test_paper_encoder_follows_equation_5():
    network, block = paper_network(), block_of(counts_of())
    weight = dense_weight(network.cell_graph_layer, 9, network.edge_mask)
    x = block.dense(block.log_normalized(20.0), 9)
    hidden = torch.tanh(x @ weight + network.cell_graph_layer.bias)
    both = network.cell_posterior(torch.tanh(network.cell_hidden(hidden)))
    posterior = network.encode(block, network.edge_mask)
    torch.testing.assert_close(posterior.mean, both[:, :3])
    torch.testing.assert_close(posterior.log_variance, both[:, 3:])
    torch.testing.assert_close(network.latent(block), both[:, :3])


def test_paper_heads_follow_equations_9_to_15():
    network = paper_network()
    z_cell, z_gene = random(4, 3, seed=1), random(9, 3, seed=2)
    library = torch.tensor([20.0, 40.0, 5.0, 10.0], dtype=DOUBLE)
    mean, theta, logits = network.decode(z_cell, z_gene, library)
    for cell in range(4):
        for gene in range(9):
            head = [
                z_cell[cell] @ network.head_weight[h] @ z_gene[gene] + network.head_bias[h, gene]
                for h in range(3)
            ]
            assert mean[cell, gene].item() == pytest.approx(
                library[cell].item() / 20 * head[0].exp().item()
            )
            assert theta[cell, gene].item() == pytest.approx(np.log1p(np.exp(head[1].item())))
            assert logits[cell, gene].item() == pytest.approx(head[2].item())


def test_paper_heads_stay_in_their_range():
    network = paper_network()
    z_cell, z_gene = 1e4 * random(4, 3, seed=1), 1e4 * random(9, 3, seed=2)
    mean, theta, _ = network.decode(z_cell, z_gene, torch.full((4,), 30.0, dtype=DOUBLE))
    for value in (mean, theta):
        assert torch.isfinite(value).all()
        assert (value > 0).all()
    assert paper_network(zero_inflated=False).decode(z_cell, z_gene, z_cell[:, 0].abs())[2] is None


def test_paper_mean_doubles_with_the_size_factor():
    network, block = paper_network(), block_of(counts_of())
    single, double = network.expression(block), network.expression(block, 2.0)
    torch.testing.assert_close(double.mean, 2 * single.mean)
    assert torch.equal(double.inverse_dispersion, single.inverse_dispersion)


def test_freezing_genes_keeps_their_embedding_and_their_graph():
    """The frozen mask is sigmoid(z_i . z_j) on the edges, eq. 18."""
    network = paper_network()
    z = random(9, 3, seed=8)
    given = z.clone()
    network.freeze_genes(given)
    given.zero_()  # a copy was kept
    torch.testing.assert_close(network.gene_embedding(), z)
    source, target = edges_of(CHAIN)
    truth = torch.sigmoid((z @ z.T)[source, target])
    torch.testing.assert_close(network.edge_mask, truth)
    assert not network.edge_mask.requires_grad
    assert {"gene_mean", "edge_mask"} <= set(network.state_dict())


# --- smoothing over the graph ---------------------------------------------------------


def test_graph_smoothing_by_hand():
    """Gene 0 averages genes 1 (weight 3/4) and 2 (weight -1/4); gene 1 has a closed gate."""
    operator = sparse.csr_matrix([[0, 0.75, -0.25], [1.0, 0, 0], [0, 0, 0]])
    layer = model.GraphSmoothing(operator).double()
    assert torch.equal(layer(random(3, 2)), random(3, 2)), "gates start at 0"
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([np.arctanh(0.5), 0.0, 3.0]))
    loadings = torch.tensor([[1.0], [4.0], [8.0]]).double()
    torch.testing.assert_close(layer(loadings).ravel(), torch.tensor([1.5, 4.0, 8.0]).double())
    assert gradcheck(layer, loadings.requires_grad_())


def test_smoothing_is_part_of_the_gene_embedding():
    network = count_network(averaging=AVERAGES)
    gate = torch.tanh(network.smoothing.gate)[:, None]
    truth = network.loadings + gate * (torch.tensor(AVERAGES.toarray()).float() @ network.loadings)
    torch.testing.assert_close(network.gene_embedding(), truth)


# --- the default network --------------------------------------------------------------


def test_mean_is_a_softmax_of_the_factor_model():
    network = count_network(n_batches=2)
    z, library = random(5, 3).float(), torch.tensor([1.0, 10.0, 100.0, 3.0, 0.0])
    batch = torch.tensor([0, 1, 1, 0, 0])
    mean = network.decode(z, library, batch).mean
    logits = z @ network.loadings.T + network.bias + network.batch_offset[batch]
    truth = logits.exp() / logits.exp().sum(1, keepdim=True) * library[:, None]
    torch.testing.assert_close(mean, truth.to(mean.dtype), rtol=1e-5, atol=1e-9)
    assert mean.sum(1).tolist() == pytest.approx(library.tolist(), rel=1e-5)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_expected_counts_are_those_after_dropout(zero_inflated):
    """Genes of which nothing, a part or all follows the state; the rest was measured as it is."""
    network = count_network(zero_inflated=zero_inflated)
    if zero_inflated:
        nn.init.constant_(network.log_scale, 0.4)
    weight = torch.tensor([0.0001, 0.5, 1.0]).repeat(3)
    share = torch.tensor([[0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2]])
    network.weigh_state(weight, share)
    block = block_for(network, counts_of())
    mean, _, logits = network.expression(block)
    found = network.expected_counts(block)
    if not zero_inflated:
        torch.testing.assert_close(found, mean)
        return
    library = block.library[:, None]
    constant = (1 - weight) * share * library  # measured
    varying = mean - constant * np.exp(0.4)  # before dropout
    truth = varying / (1 + logits.exp()) + constant
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[:, 0], 0.02 * library[:, 0], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_doubling_the_library_doubles_means(zero_inflated):
    network = count_network(zero_inflated=zero_inflated)
    block = block_for(network, counts_of())
    single, double = network.expression(block), network.expression(block, 2.0)
    torch.testing.assert_close(double.mean, 2 * single.mean, rtol=1e-5, atol=1e-7)


def test_dropout_curve_is_logistic_in_the_log_mean():
    network = count_network(zero_inflated=True)
    block = block_for(network, counts_of())
    mean, _, logits = network.expression(block)
    intercept, slope = network.dropout_curve
    torch.testing.assert_close(logits, intercept + slope * mean.log(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        mean.sum(1), block.library * network.log_scale.exp(), rtol=1e-5, atol=1e-6
    )
    assert count_network().expression(block).zero_inflation_logits is None


def test_the_chance_of_dropout_is_the_same_at_any_depth_of_reading():
    """A deeper reading of the same cells has larger means and the same dropped entries."""
    network = count_network(zero_inflated=True)
    set_all(network)
    z, library = random(6, network.loadings.shape[1]).float(), torch.full((6,), 400.0)
    batch = torch.zeros(6, dtype=torch.long)
    before = network.decode(z, library, batch)
    network.move_dropout_curve(np.log(2.5))
    after = network.decode(z, 2.5 * library, batch)
    torch.testing.assert_close(after.mean, 2.5 * before.mean)
    torch.testing.assert_close(after.zero_inflation_logits, before.zero_inflation_logits)


def untrained(proportions: torch.Tensor, **options) -> model.CountNetwork:
    network = model.CountNetwork(
        gene_proportions=proportions,
        n_latent=2,
        n_hidden=4,
        dropout_rate=0.0,
        median_library=10.0,
        n_batches=1,
        zero_inflated=False,
        averaging=None,
        **options,
    )
    nn.init.zeros_(network.loadings)
    return network.eval()


def test_an_untrained_network_predicts_gene_means():
    proportions, library = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([10.0, 50.0])
    z = torch.randn(2, 2, generator=seeded())
    mean = untrained(proportions).decode(z, library, torch.zeros(2).long()).mean
    torch.testing.assert_close(mean, library[:, None] * proportions)


def test_bfloat16_keeps_gene_means():
    proportions = torch.rand(5000, generator=seeded()) + 0.1
    proportions = proportions / proportions.sum()
    z, library = torch.randn(2, 2, generator=seeded()), torch.tensor([1e4, 1e4])
    with torch.inference_mode():
        network = untrained(proportions, bfloat16=True)
        mean = network.decode(z, library, torch.zeros(2).long()).mean
    torch.testing.assert_close(mean, library[:, None] * proportions, rtol=2e-3, atol=0)


@pytest.mark.parametrize("extreme", [-100.0, 100.0])
def test_theta_stays_in_its_range(extreme):
    network = count_network()
    nn.init.constant_(network.log_theta, extreme)
    theta = network.inverse_dispersion
    assert torch.isfinite(theta).all()
    bound = model_parts.SMALLEST_THETA if extreme < 0 else model_parts.LARGEST_THETA
    torch.testing.assert_close(theta, torch.full_like(theta, bound))


def test_sparse_and_dense_input_products_agree(monkeypatch):
    network = count_network()
    block = block_for(network, counts_of(mean=0.7))
    results = []
    for threshold in (0.0, 1.0):  # always dense, always sparse
        monkeypatch.setattr(model, "DENSE_ABOVE", threshold)
        product = network._input_product(block)
        (gradient,) = torch.autograd.grad(product.square().sum(), network.input_weight)
        results.append((product, gradient))
    truth = block.dense(block.log_normalized(20.0), 9) @ network.input_weight
    torch.testing.assert_close(results[0][0], truth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_the_library_of_what_was_kept_is_exact_beyond_float32():
    """Adding one at a time to 2^24 leaves it as it is in float32."""
    counts = np.array([[2**24, 1, 1, 1, 1]], dtype=np.float32)
    block = block_of(counts)._replace(keys=row_keys(np.arange(1), 1, torch.device("cpu")))
    kept, _ = model.split_block(block, 1.0)
    assert kept.library.item() == 2**24 + 4


def test_hidden_genes_are_predicted_as_a_whole():
    block = keyed(block_of(counts_of(mean=2.0)))
    hide = torch.arange(9) % 3 == 0
    kept, thinned = model.split_block(block, 0.6)
    kept_of_shown, hidden = model.split_block(block, 0.6, hide)
    of_hidden = hide[block.genes]
    assert of_hidden.any()
    assert not kept_of_shown.counts[of_hidden].any()
    assert torch.equal(hidden.target[of_hidden], block.counts[of_hidden])
    assert torch.equal(hidden.kept[~of_hidden], thinned.kept[~of_hidden])
    assert torch.equal(kept_of_shown.library, kept.library)
    torch.testing.assert_close(hidden.fraction, 0.6 * (~hide).to(hidden.fraction.dtype))


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("n_batches", [1, 3])
def test_thinned_loss_is_that_of_the_decoded_distribution(zero_inflated, n_batches):
    """Loss and the gradient of every weight, against the distribution made in full."""
    network = count_network(n_batches=n_batches, zero_inflated=zero_inflated)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    block = keyed(block_for(network, counts_of(mean=0.7)))
    kept, thinned = model.split_block(block, 0.6)
    mean, theta, logits = network.decode(network.encode(kept), block.library, block.batch)
    if logits is None:
        plain = thinned_nb_loss(mean, theta, thinned)
    else:
        plain = thinned_zinb_loss(mean, theta, logits, thinned)
    ours = network.thinned_loss(kept, block.library, thinned)
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, learned, allow_unused=True) for loss in (ours, plain)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_batches_differ_by_their_offsets_alone():
    network = count_network(n_batches=2)
    counts = counts_of()
    nn.init.zeros_(network.input_batch)
    first, second = (
        network.expression(block_for(network, counts, np.full(6, code))).mean for code in (0, 1)
    )
    ratio = (second / first).log()
    ratio = ratio - ratio[:, :1]
    offset = network.batch_offset[1] - network.batch_offset[0]
    torch.testing.assert_close(ratio, (offset - offset[0]).expand(6, 9), rtol=1e-4, atol=1e-5)


# --- laws of both networks ------------------------------------------------------------


def permuted_count_network(network: model.CountNetwork, order: torch.Tensor) -> model.CountNetwork:
    averaging = AVERAGES[order.numpy()][:, order.numpy()]
    other = count_network(zero_inflated=network.zero_inflated, averaging=averaging)
    by_gene = {"input_weight", "loadings", "bias", "log_theta", "smoothing.gate"}
    state = {
        name: value[order] if name in by_gene else value
        for name, value in network.state_dict().items()
    }
    state["batch_offset"] = state["batch_offset"][:, order]
    other.load_state_dict(state)
    return other


def test_permuting_genes_permutes_the_default_networks_output():
    order = torch.randperm(9, generator=seeded(1))
    network = count_network(zero_inflated=True, averaging=AVERAGES)
    other, counts = permuted_count_network(network, order), counts_of()
    one = network.expression(block_for(network, counts))
    two = other.expression(block_for(other, counts[:, order]))
    torch.testing.assert_close(two.mean, one.mean[:, order], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(two.inverse_dispersion, one.inverse_dispersion[:, order])
    torch.testing.assert_close(
        two.zero_inflation_logits, one.zero_inflation_logits[:, order], rtol=1e-5, atol=1e-6
    )


def test_permuting_genes_permutes_the_paper_networks_output():
    order = torch.randperm(9, generator=seeded(1))
    network, counts = paper_network(), counts_of()
    other = paper_network(CHAIN[order][:, order])
    old = dense_weight(network.cell_graph_layer, 9)[order][:, order]
    state = network.state_dict()
    layer = "cell_graph_layer."
    state[layer + "edges"] = other.cell_graph_layer.edges
    state[layer + "weight"] = old[tuple(other.cell_graph_layer.edges)]
    state[layer + "bias"] = state[layer + "bias"][order]
    state["cell_hidden.weight"] = state["cell_hidden.weight"][:, order]
    state["head_bias"] = state["head_bias"][:, order]
    other.load_state_dict(state)
    other.freeze_genes(network.gene_mean[order])
    one = network.expression(block_for(network, counts))
    two = other.expression(block_for(other, counts[:, order]))
    for value, permuted in zip(one, two, strict=True):
        torch.testing.assert_close(permuted, value[:, order])


@pytest.mark.parametrize("build", [count_network, paper_network])
def test_evaluation_is_deterministic_and_training_depends_on_the_keys(build):
    network = build()
    block = block_for(network, counts_of())
    first, second = network.expression(block), network.expression(block)
    assert torch.equal(first.mean, second.mean)
    network.train()
    steps = [network.expression(keyed(block, seed)).mean for seed in (0, 0, 1)]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])


@pytest.mark.parametrize("build", [count_network, paper_network])
def test_a_cell_does_not_depend_on_the_others(build):
    network, counts = build(), counts_of()
    together = network.expression(block_for(network, counts)).mean
    alone = network.expression(block_for(network, counts[2:3])).mean
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-6)


# --- splitting molecules --------------------------------------------------------------


def test_splitting_a_block_conserves_molecules():
    counts = counts_of(20, 9, mean=6.0)
    counts[0], counts[1, 0], counts[4] = 0, 2**24, 0
    block = block_of(counts)
    block = keyed(block._replace(counts=block.counts.float(), library=block.library.float()))
    kept, thinned = model.split_block(block, 0.6)
    assert torch.equal(thinned.kept + thinned.target, block.counts)
    assert (thinned.kept >= 0).all()
    assert (thinned.target >= 0).all()
    assert torch.equal(kept.counts, thinned.kept)
    assert thinned.fraction == 0.6
    dense = kept.dense(kept.counts, 9)
    torch.testing.assert_close(kept.library, dense.sum(1))
    assert torch.equal(kept.offsets, block.offsets)
    assert torch.equal(thinned.rows, block.rows())
    assert torch.equal(thinned.columns, block.genes)
    assert 0.55 < (dense[5:].sum() / block.counts[block.rows() >= 5].sum()).item() < 0.65


def test_splitting_depends_on_the_keys_alone():
    block = block_of(counts_of(20, 9))
    one, two, three = (model.split_block(keyed(block, s), 0.5)[1].kept for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_a_cell_is_split_in_the_same_way_in_any_company():
    counts = counts_of(20, 9, mean=6.0)
    keys = keyed(block_of(counts)).keys
    together = model.split_block(keyed(block_of(counts)), 0.5)[0]
    chosen = np.array([3, 11, 4])
    alone = model.split_block(block_of(counts[chosen])._replace(keys=keys[chosen]), 0.5)[0]
    assert torch.equal(alone.dense(alone.counts, 9), together.dense(together.counts, 9)[chosen])


def test_shares_by_hand():
    """Three genes in two batches: a constant part each, and what is left by softmax."""
    network = count_network(3, n_batches=2)
    with torch.no_grad():
        network.loadings.copy_(torch.tensor([0.0, 1.0, 2.0])[:, None])
        network.bias.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
        network.batch_offset.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(2), 0.0]]))
    z = torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3)
    library, batch = torch.tensor([10.0, 10.0]), torch.tensor([0, 1])
    share = lambda: network.decode(z, library, batch).mean.detach().numpy() / 10  # noqa: E731
    rate = np.array([[0.5, 0.3 * math.e, 0.2 * math.e**2], [0.5, 0.6 * math.e, 0.2 * math.e**2]])
    np.testing.assert_allclose(share(), rate / rate.sum(1, keepdims=True), rtol=1e-5)
    weight = np.array([1.0, 0.5, 0.01])
    mean = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    network.weigh_state(torch.tensor(weight), torch.tensor(mean))
    left = (weight * mean).sum(1, keepdims=True)
    part = weight * rate / (weight * rate).sum(1, keepdims=True)
    np.testing.assert_allclose(share(), (1 - weight) * mean + left * part, rtol=1e-5)
    np.testing.assert_allclose(share().sum(1), 1, rtol=1e-6)


def test_certainty_by_hand():
    """theta = theta of the gene x e^(w u z), w the weight of the gene, within bounds."""
    network = count_network(3)
    with torch.no_grad():
        network.log_theta.copy_(torch.tensor([2.0, 3.0, 5.0]).log())
        network.to_certainty.copy_(torch.tensor([0.5, -1.0, 0.0]))
    z = torch.tensor([[2.0, 0.0, 7.0], [0.0, 1.0, 7.0], [0.0, 90.0, 7.0]])
    theta = lambda: network.decode(z, torch.full((3,), 10.0), torch.zeros(3).long())[1]  # noqa: E731
    kappa = np.exp([1.0, -1.0, -model.LARGEST_LOG_CERTAINTY])[:, None]
    np.testing.assert_allclose(theta().detach(), kappa * [2.0, 3.0, 5.0], rtol=1e-5)
    weight = np.array([1.0, 0.5, 0.01])
    network.weigh_state(torch.tensor(weight), torch.full((1, 3), 1 / 3, dtype=torch.float64))
    np.testing.assert_allclose(theta().detach(), kappa**weight * [2.0, 3.0, 5.0], rtol=1e-5)


def test_weights_reach_a_network_on_another_device():
    network = count_network(3).to("meta")
    network.weigh_state(torch.ones(3, dtype=torch.float64), torch.full((1, 3), 1 / 3))
    assert network.state_weight.is_meta
    assert network.mean_share.is_meta
