"""Known networks from files: several formats, aliases, weights, and what goes wrong."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from graphsci import GraphSCI
from graphsci._jobs.checks import check_networks
from graphsci._jobs.network import NetworkJob
from graphsci.gene_graph.graph import combine_graphs
from graphsci.prior_knowledge.known_networks import read_known_networks

NAMES = ["Gata1", "Mpo", "Spi1", "Cebpa", "Klf1"]


@pytest.fixture
def files(tmp_path):
    """STRING as downloaded, with its aliases; a GMT; edges with every fault."""
    texts = {
        "links.txt": "protein1 protein2 combined_score\n"
        "10090.ENSMUSP1 10090.ENSMUSP2 900\n10090.ENSMUSP2 10090.ENSMUSP1 900\n"
        "10090.ENSMUSP1 10090.ENSMUSP3 150\n10090.ENSMUSP1 10090.ENSMUSP9 990\n",
        "aliases.txt": "#string_protein_id\talias\tsource\n"
        "10090.ENSMUSP1\tGATA-1\tEnsembl_synonym\n10090.ENSMUSP1\tGata1\tEnsembl_gene_name\n"
        "10090.ENSMUSP2\tMpo\tEnsembl_gene_name\n10090.ENSMUSP3\tSpi1\tEnsembl_gene_name\n",
        "sets.gmt": "first\t-\tGata1\tMpo\tSpi1\nsecond\t-\tGata1\tMpo\n",
        "bad.tsv": "Gata1\tGata1\t1\nMpo\tSpi1\t1\nSpi1\tMpo\t2\nMpo\tXyz1\t1\nKlf1\tCebpa\t0\n",
        "human.tsv": "GATA1\tMPO\nSPI1\tCEBPA\n",
        "other.tsv": "Aaa\tBbb\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def edges(graph):
    return {(a, b): w for a, b, w in graph.edge_table().itertuples(index=False)}


def test_string_as_downloaded_with_aliases(files):
    found = read_known_networks([files / "links.txt"], NAMES, symbols=files / "aliases.txt")
    assert edges(found) == {("Gata1", "Mpo"): pytest.approx(0.9)}
    said = "; ".join(found.notes)
    assert "1 of 4 edges with a score below 700 left out" in said
    assert "1 edges of proteins without a symbol left out" in said
    assert "2 of 2 genes of the network" in said


@pytest.mark.parametrize(
    "aliases",
    [
        "10090.ENSMUSP1\t14460\tEnsembl_EntrezGene\n10090.ENSMUSP1\tGata1\tEnsembl_EntrezGene\n"
        "10090.ENSMUSP2\tMGI:97137\tEnsembl_MGI\n10090.ENSMUSP2\tMpo\tEnsembl_MGI\n",
        "10090.ENSMUSP1\tGata1\tUniProt_GN_Name\n10090.ENSMUSP2\tMpo\tBLAST_UniProt_GN_Name\n",
    ],
)
def test_numbers_of_genes_are_no_symbols(files, aliases):
    (files / "aliases.txt").write_text(f"#string_protein_id\talias\tsource\n{aliases}")
    found = read_known_networks([files / "links.txt"], NAMES, symbols=files / "aliases.txt")
    assert edges(found) == {("Gata1", "Mpo"): pytest.approx(0.9)}


def test_names_of_strings_proteins_go_to_its_files_alone(files):
    job = NetworkJob(
        source=files,
        output=files / "x.tsv",
        networks=(files / "links.txt",),
        priors=(files / "bad.tsv",),
        network_symbols=files / "aliases.txt",
    )
    check_networks(job, read=(*job.networks, *job.priors))
    said = []
    trained, reported = (
        job.read_known(paths, NAMES, said.append) for paths in (job.networks, job.priors)
    )
    assert edges(trained) == {("Gata1", "Mpo"): pytest.approx(0.9)}
    assert edges(reported) == {("Mpo", "Spi1"): 2}


def test_faults_of_a_network_are_each_told(files):
    found = read_known_networks([files / "bad.tsv"], NAMES)
    assert edges(found) == {("Mpo", "Spi1"): 2}
    said = "; ".join(found.notes)
    for words in ("self-loops dropped", "duplicated or mirrored", "weight 0", "5 of 6 genes"):
        assert words in said


def test_files_are_averaged_by_their_largest_weight(files):
    paths = [files / "links.txt", files / "sets.gmt"]
    found = read_known_networks(paths, NAMES, symbols=files / "aliases.txt")
    # STRING .9 / .9 and 2 sets of 2; the other pairs are in 1 set of 2
    assert edges(found) == {
        ("Gata1", "Mpo"): pytest.approx(1.0),
        ("Gata1", "Spi1"): pytest.approx(0.25),
        ("Mpo", "Spi1"): pytest.approx(0.25),
    }
    assert any(note.startswith("sets.gmt: ") for note in found.notes)


def test_ignoring_case_is_a_choice(files):
    found = read_known_networks([files / "human.tsv"], NAMES, ignore_case=True)
    assert set(edges(found)) == {("Gata1", "Mpo"), ("Spi1", "Cebpa")}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("human.tsv", {}, "human.tsv: .*human network for mouse genes"),
        ("other.tsv", {}, "other.tsv: No edge of the network joins two genes"),
        ("links.txt", {}, "pass STRING's protein.info"),
        ("sets.gmt", {"symbols": "aliases.txt"}, "no network is STRING's"),
    ],
)
def test_one_message_for_each_fault(files, name, options, said):
    options = {key: files / value for key, value in options.items()}
    with pytest.raises(ValueError, match=said):
        read_known_networks([files / name], NAMES, **options)


# --- in training ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    activity = rng.normal(size=(150, 1))
    rate = 8 * np.exp(np.hstack([0.8 * activity] * 3 + [0 * activity] * 9))
    names = [*NAMES, *(f"g{i}" for i in range(7))]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, var=pd.DataFrame(index=names))


OPTIONS = {"max_epochs": 1, "check": False, "likelihood": "nb", "n_latent": 2}
KNOWN = pd.DataFrame(
    {"gene_a": ["Cebpa", "Gata1"], "gene_b": ["Klf1", "Mpo"], "weight": [900, 450]}
)


def test_a_known_network_alone_or_beside_the_computed_graph(data):
    computed = GraphSCI(**OPTIONS).fit(data).gene_graph
    alone = GraphSCI(**OPTIONS).fit(data, gene_graph=KNOWN).gene_graph
    both = GraphSCI(**OPTIONS, network_weight=0.25).fit(data, gene_graph=KNOWN).gene_graph
    assert edges(alone) == {("Cebpa", "Klf1"): 900, ("Gata1", "Mpo"): 450}
    scaled = alone._replace(adjacency=alone.adjacency / 900)
    expected = combine_graphs([computed, scaled], weights=[0.75, 0.25])
    np.testing.assert_allclose(both.adjacency.toarray(), expected.adjacency.toarray(), rtol=1e-6)
    assert edges(both)[("Cebpa", "Klf1")] == pytest.approx(0.25)
    assert both.source == "noise_corrected+prior"
    assert any("4 of 4 genes of the network" in note for note in both.notes)


def test_a_table_of_another_species_is_refused_before_training(data):
    human = KNOWN.assign(gene_a=KNOWN["gene_a"].str.upper(), gene_b=KNOWN["gene_b"].str.upper())
    heard = []
    with pytest.raises(ValueError, match="would match if case were ignored"):
        GraphSCI(**OPTIONS).fit(data, gene_graph=human, log=heard.append)
    assert not heard
