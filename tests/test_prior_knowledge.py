"""Readers of prior networks, on small files written as their sources write them."""

import gzip

import numpy as np
import pandas as pd
import pytest

from graphsci.gene_graph.graph import graph_from_edges
from graphsci.prior_knowledge import read_gene_sets, read_network
from graphsci.prior_knowledge.gene_symbols import match_symbols


@pytest.fixture
def write(tmp_path):
    """Write text to a file, gzipped when the name says so, and return its path."""

    def write_text(name, text):
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        return path

    return write_text


def rows(table):
    return [tuple(row) for row in table.itertuples(index=False)]


LINKS = """protein1 protein2 combined_score
9606.ENSP1 9606.ENSP2 900
9606.ENSP2 9606.ENSP1 900
9606.ENSP1 9606.ENSP3 150
9606.ENSP2 9606.ENSP4 800
"""
INFO = """#string_protein_id\tpreferred_name\tprotein_size\tannotation
9606.ENSP1\tTP53\t393\tbinds "DNA
9606.ENSP2\tMDM2\t491\ta'b
9606.ENSP3\tNA\t1\tx
"""
ALIASES = """#string_protein_id\talias\tsource
9606.ENSP1\tP04637\tUniProt_AC
9606.ENSP1\tTRP53-OLD\tEnsembl_gene_name
9606.ENSP1\tTP53\tEnsembl_HGNC_symbol
9606.ENSP2\tMDM2\tEnsembl_gene_name
"""


# STRING ------------------------------------------------------------------------


@pytest.mark.parametrize("naming", [INFO, ALIASES])
def test_string_as_downloaded(write, naming):
    links = write("9606.protein.links.v12.0.txt.gz", LINKS)
    table = read_network(links, symbols=write("names.txt.gz", naming))
    assert rows(table) == [("TP53", "MDM2", 0.9), ("MDM2", "TP53", 0.9)]
    assert table.attrs == {
        "format": "string",
        "notes": (
            "1 of 4 edges with a score below 700 left out",
            "1 edges of proteins without a symbol left out",
        ),
    }
    graph = graph_from_edges(table, gene_names=["MDM2", "TP53"])
    assert graph.n_edges == 1
    assert graph.adjacency[0, 1] == np.float32(0.9)


def test_string_in_chunks_and_other_columns(write, monkeypatch):
    monkeypatch.setattr("graphsci.prior_knowledge._string.CHUNK_ROWS", 2)
    detailed = "\n".join(
        " ".join([*line.split()[:2], "12" if i else "neighborhood", line.split()[2]])
        for i, line in enumerate(LINKS.splitlines())
    )
    table = read_network(write("detailed.txt", detailed), min_score=0)
    assert len(table) == 4
    assert list(table.columns) == ["gene_a", "gene_b", "weight"]
    assert table["weight"].tolist() == [0.9, 0.9, 0.15, 0.8]


def test_string_without_names_says_what_is_missing(write):
    table = read_network(write("links.txt", LINKS))
    with pytest.raises(ValueError, match=r"names STRING proteins: pass STRING's protein.info"):
        match_symbols(table, ["TP53", "MDM2"])


def test_string_of_another_species(write):
    naming = write("info.txt", INFO.replace("9606", "10090"))
    with pytest.raises(ValueError, match=r"info.txt names none of the proteins, .*'9606.ENSP1'"):
        read_network(write("links.txt", LINKS), symbols=naming)


def test_string_naming_file_of_no_known_kind(write):
    with pytest.raises(ValueError, match=r"neither STRING's protein.info .* nor protein.aliases"):
        read_network(write("links.txt", LINKS), symbols=write("x.txt", "a\tb\n1\t2\n"))


# Gene sets ---------------------------------------------------------------------

GMT = "complex\thttp://x\tA\tB\tC\ncomplex\tother\tC\tB\tC\nlarge\t\tA\tB\tC\tD\n\n"


def test_gene_sets_keep_names_and_order(write):
    assert read_gene_sets(write("x.gmt", GMT)) == {
        "complex": ("A", "B", "C"),
        "complex (2)": ("C", "B"),
        "large": ("A", "B", "C", "D"),
    }


def test_members_of_a_set_are_connected(write):
    table = read_network(write("x.gmt.gz", GMT), max_set_size=3)
    assert sorted(rows(table)) == [("A", "B", 1.0), ("A", "C", 1.0), ("B", "C", 2.0)]
    assert table.attrs["notes"] == ("1 of 3 sets of more than 3 genes left out",)


def test_bad_gmt(write):
    with pytest.raises(ValueError, match=r"Line 2 of x.gmt is not GMT: .* got 'lonely'"):
        read_gene_sets(write("x.gmt", "a\tb\tC\nlonely\n"))
    with pytest.raises(ValueError, match=r"max_set_size must be at least 2.* got 1"):
        read_network(write("y.gmt", GMT), max_set_size=1)
    with pytest.raises(ValueError, match=r"holds no edge \(2 of 2 sets of more than 2 genes"):
        read_network(write("z.gmt", "a\t\tA\tB\tC\nb\t\tA\tB\tD\n"), max_set_size=2)


# Regulation --------------------------------------------------------------------

TRRUST = "AATF\tBAX\tRepression\t1\nAATF\tMYC\tUnknown\t2\nSP1\tAATF\tActivation\t3;4\n"


@pytest.mark.parametrize("header", ["", "tf\ttarget\tmode\tpmid\n"])
def test_trrust(write, header):
    table = read_network(write("trrust.tsv.gz", header + TRRUST))
    assert table.attrs["format"] == "trrust"
    assert rows(table) == [
        ("AATF", "BAX", 1.0, -1.0),
        ("AATF", "MYC", 1.0, 0.0),
        ("SP1", "AATF", 1.0, 1.0),
    ]
    graph = graph_from_edges(table, gene_names=["AATF", "BAX", "MYC"])
    assert graph.adjacency[0, 1] == -1
    assert graph.adjacency[2, 0] == 1


def test_trrust_with_commas(write):
    table = read_network(write("trrust.csv", "TF,target,mode,pmid\nAHR,CYP1A1,Activation,1\n"))
    assert rows(table) == [("AHR", "CYP1A1", 1.0, 1.0)]


def test_trrust_of_unknown_mode(write):
    with pytest.raises(ValueError, match=r"modes \['Maybe'\]; TRRUST's are"):
        read_network(write("t.tsv", TRRUST + "A\tB\tMaybe\t1\n"), format="trrust")


@pytest.mark.parametrize(
    "text",
    [
        "tf\ttarget\tconfidence\tmor\nAHR\tCYP1A1\tA\t1.0\nAHR\tMYC\tC\t-0.5\n",
        "source,confidence,target,weight\nAHR,A,CYP1A1,1\nAHR,C,MYC,-0.5\n",
        "TF;Target;MOR;Confidence\nAHR;CYP1A1;1;A\nAHR;MYC;-0.5;C\n",
        "\ufefftf\ttarget\tmor\tconfidence\nAHR\tCYP1A1\t1\tA\nAHR\tMYC\t-0.5\tC\n",
    ],
)
def test_regulon(write, text):
    path = write("net.txt", text)
    table = read_network(path)
    assert table.attrs["format"] == "regulon"
    assert rows(table) == [("AHR", "CYP1A1", 1.0, 1.0), ("AHR", "MYC", 0.5, -1.0)]
    confident = read_network(path, confidence="AB")
    assert rows(confident) == [("AHR", "CYP1A1", 1.0, 1.0)]
    assert confident.attrs["notes"] == (
        "1 of 2 edges of other confidence than ['A', 'B'] left out",
    )


def test_regulon_without_weights(write):
    table = read_network(write("collectri.csv", "source,target\nMYC,TERT\n"))
    assert rows(table) == [("MYC", "TERT", 1.0, 1.0)]


# Plain edge lists --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gene_a\tgene_b\nA\tB\nB\tC\n", [("A", "B", 1.0), ("B", "C", 1.0)]),
        ("A\tB\nB\tC\n", [("A", "B", 1.0), ("B", "C", 1.0)]),
        ("A,B,0.5\nB,C,2\n", [("A", "B", 0.5), ("B", "C", 2.0)]),
        ("x,y,score\nA,B,0.5\n", [("A", "B", 0.5)]),
        ("weight,gene_b,gene_a\n0.5,B,A\n", [("A", "B", 0.5)]),
        ("from;to;why\nA;B;pp\n", [("A", "B", 1.0)]),
        ("A B\nNA A\n", [("A", "B", 1.0), ("NA", "A", 1.0)]),
        ("TF\tTFRC\t0.9\nA\tB\t0.5\n", [("TF", "TFRC", 0.9), ("A", "B", 0.5)]),  # transferrin
        ("#node1\tnode2\tid1\tcombined_score\nA\tB\tx\t0.5\n", [("A", "B", 0.5)]),
        ("gene1,gene2,evidence,score\nA,B,both,0.5\n", [("A", "B", 0.5)]),
        ("# made by hand\n\n# twice\nA,B,0.5\n", [("A", "B", 0.5)]),
        (",gene_a,gene_b,weight\n0,A,B,0.5\n1,B,C,2\n", [("A", "B", 0.5), ("B", "C", 2.0)]),
        ("A , B,0.5\n", [("A", "B", 0.5)]),
    ],
)
def test_edge_lists_with_and_without_header(write, text, expected):
    assert rows(read_network(write("edges.txt", text))) == expected


def test_a_remark_beside_a_weight_is_told_and_loses_no_edge(write):
    found = read_network(write("e.tsv", "A\tB\t1 # sure\nC\tD\t1\n"))
    assert rows(found) == [("A", "B", 1.0), ("C", "D", 1.0)]
    assert found.attrs["notes"] == ("the third column is not numeric and was not used as weight",)


REMARKS = (
    "# a,b\tc d 0.5",
    "## made, by hand\t1",
    "#",
    "#from STRING",
    "#A\tB\t0.5",
    "#A,B",
)


@pytest.mark.parametrize("remark", REMARKS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.tsv", "A\tB\t0.5\nB\tC\t2\n"),
        ("e.csv.gz", "gene_a,gene_b,weight\nA,B,0.5\n\nB,C,2\n"),
        ("e.txt", "A B\nB C\n"),
        ("e.sif", "A\tnegative\tB\nB\tpositive\tC\n"),
        ("node.tsv", "#node1\tnode2\tx\tcombined_score\nA\tB\tx\t0.5\nC\tB\ty\t2\n"),
        ("t.tsv", TRRUST),
        ("r.csv", "source,confidence,target,weight\nAHR,A,CYP1A1,1\nAHR,C,MYC,-0.5\n"),
        ("links.txt", LINKS),
        ("x.gmt", GMT),
    ],
)
def test_comments_may_stand_anywhere(write, name, text, remark):
    expected = read_network(write(name, text))
    lines = text.splitlines()
    for at in range(len(lines) + 1):
        remarked = "\n".join([*lines[:at], remark, remark, *lines[at:], remark]) + "\n"
        found = read_network(write(name, remarked))
        pd.testing.assert_frame_equal(found, expected)
        assert found.attrs == expected.attrs


def test_a_header_with_a_mark_is_one(write):
    text = "#made by x\n#TF\ttarget\tmor\n# the rest\nAHR\tMYC\t-0.5\n"
    table = read_network(write("r.tsv", text))
    assert rows(table) == [("AHR", "MYC", 0.5, -1.0)]
    assert rows(read_network(write("tf.tsv", "#TF\tgene\nA\tB\n"))) == [("A", "B", 1.0)]
    links = read_network(write("links.txt", f"#{LINKS}"))
    assert links.attrs == read_network(write("plain.txt", LINKS)).attrs
    assert rows(links) == rows(read_network(write("plain.txt", LINKS)))
    weights = read_network(write("e.tsv", "#gene_a\tgene_b\tkind\tscore\nA\tB\tpp\t3\n"))
    assert rows(weights) == [("A", "B", 3.0)]


def test_rows_are_numbered_as_in_an_editor(write):
    text = "# one\n\ngene_a,gene_b\nA,B\n# five\n\nA,\n"
    with pytest.raises(ValueError, match=r"Row 7 of e\.csv has an empty or missing field"):
        read_network(write("e.csv", text))
    with pytest.raises(ValueError, match=r"c\.csv is empty"):
        read_network(write("c.csv", "# nothing\n#else\n"))


@pytest.mark.parametrize("text", ["A,B,0.5\nB,C,NA\nC,D,1\n", "A,B,NA\nB,C,0.5\nC,D,1\n"])
def test_a_weight_that_is_missing_is_told(write, text):
    with pytest.raises(ValueError, match=r"of e\.csv must hold numbers, got 'NA'"):
        read_network(write("e.csv", text))


def test_two_columns_of_one_name(write):
    with pytest.raises(ValueError, match=r"e\.csv has two columns of the name 'weight'\. Rename"):
        read_network(write("e.csv", "gene_a,gene_b,weight,weight\nA,B,1,2\n"))
    table = read_network(write("r.csv", "source,target,mor,,\nA,B,1,,\n"))  # of no concern
    assert rows(table) == [("A", "B", 1.0, 1.0)]


def test_modes_under_a_header_are_signs(write):
    table = read_network(write("e.tsv", "source\ttarget\tinteraction\nA\tB\tRepression\n"))
    assert rows(table) == [("A", "B", 1.0, -1.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source\ttarget\tconfidence\tmor\nA\tB\tunknown\t-1\n", [("A", "B", 1.0, -1.0)]),
        ("gene1,gene2,evidence,weight\nA,B,unknown,0.4\n", [("A", "B", 0.4)]),
        ("source\ttarget\teffect\tmor\nA\tB\tActivation\t-1\n", [("A", "B", 1.0, -1.0)]),
        (
            "gene1,gene2,evidence,score\nA,B,unknown,.4\nB,C,x,.5\n",
            [("A", "B", 0.4), ("B", "C", 0.5)],
        ),
    ],
)
def test_where_there_are_weights_a_third_column_is_no_mode(write, text, expected):
    assert rows(read_network(write("e.txt", text))) == expected


@pytest.mark.parametrize("text", ["\tB\t1\nA\tC\t2\n", "A, ,0.5\nA,B,0.5\n"])
def test_a_gene_that_is_missing_is_told(write, text):
    with pytest.raises(ValueError, match=r"Row 1 of e\.txt has an empty or missing field"):
        read_network(write("e.txt", text))


def test_sif(write):
    table = read_network(write("e.sif", "A\tpositive\tB\nB\tnegative\tC\n"))
    assert rows(table) == [("A", "B", 1.0, 1.0), ("B", "C", 1.0, -1.0)]
    assert rows(read_network(write("pp.sif", "A pp B\n"))) == [("A", "B", 1.0)]
    text = "source\tinteraction\ttarget\nA\tnegative\tB\nB\tactivation\tC\n"
    found = rows(read_network(write("HEAD.SIF", text)))
    assert found == [("A", "B", 1.0, -1.0), ("B", "C", 1.0, 1.0)]
    with pytest.raises(ValueError, match="has 2 columns; a SIF file has gene, relation and gene"):
        read_network(write("two.sif", "A B\n"))


def test_text_column_is_not_a_weight(write):
    table = read_network(write("e.tsv", "from\tto\thow\nA\tB\tpp\n"))
    assert table.attrs["notes"] == ("column 'how' is not numeric and was not used as weight",)


def test_min_score_applies_to_weights(write):
    table = read_network(write("e.csv", "A,B,0.5\nB,C,2\n"), min_score=1)
    assert rows(table) == [("B", "C", 2.0)]
    assert table.attrs["notes"] == ("weights below 1 left out",)


# Symbols -----------------------------------------------------------------------

HUMAN = pd.DataFrame({"gene_a": ["TP53", "MYC", "GAPDH"], "gene_b": ["MDM2", "MAX", "ACTB"]})
MOUSE_GENES = ["Myc", "Max", "Mdm2", "Gapdh", "Trp53", "1700001C19Rik"]


def test_matching_reports_its_share():
    matched = match_symbols(HUMAN, ["MYC", "MAX", "TP53"])
    assert rows(matched.edges) == [("MYC", "MAX")]
    assert (matched.n_matched_genes, matched.n_network_genes, matched.n_network_edges) == (3, 6, 3)
    assert matched.notes == ("3 of 6 genes of the network (50%) and 1 of 3 edges are in the data",)


def test_human_network_for_mouse_genes_is_refused():
    with pytest.raises(
        ValueError, match=r"looks like a human network for mouse genes: 4 of 6 .*ignore_case=True"
    ):
        match_symbols(HUMAN, MOUSE_GENES)
    titled = HUMAN.apply(lambda column: column.str.title())
    with pytest.raises(ValueError, match=r"looks like a mouse network for human genes"):
        match_symbols(titled, ["MYC", "MAX"])


def test_a_few_accidental_matches_do_not_hide_the_wrong_species():
    many = pd.DataFrame({"gene_a": [f"ABC{i}" for i in range(400)], "gene_b": "T"})
    chance = pd.DataFrame({"gene_a": ["T"], "gene_b": ["5S"]})
    network = pd.concat([many, chance])
    with pytest.raises(ValueError, match="looks like a human network for mouse genes"):
        match_symbols(network, [*(f"Abc{i}" for i in range(400)), "T", "5S"])


def test_mixed_case_is_a_note_when_enough_matches():
    matched = match_symbols(HUMAN, ["MYC", "MAX", "Tp53", "Mdm2", "Gapdh", "Actb"])
    assert len(matched.edges) == 1
    assert "Symbols differ in upper and lower case: 6 of 6" in matched.notes[1]


def test_ignoring_case_on_request():
    matched = match_symbols(HUMAN, MOUSE_GENES, ignore_case=True)
    assert rows(matched.edges) == [("Myc", "Max")]
    assert matched.notes[1] == "4 symbols matched by ignoring case"
    ambiguous = match_symbols(HUMAN, ["Myc", "mYC", "MAX", "TP53", "mdm2"], ignore_case=True)
    assert rows(ambiguous.edges) == [("TP53", "mdm2")]


def test_other_identifiers_are_named():
    with pytest.raises(ValueError, match="The data uses Ensembl ids: convert them"):
        match_symbols(HUMAN, ["ENSG00000141510", "ENSG00000136997"])
    with pytest.raises(ValueError, match=r"'TP53', 'MYC', 'GAPDH'; data: 'x'.*same species"):
        match_symbols(HUMAN, ["x", "y"])
    with pytest.raises(ValueError, match=r"lacks \['gene_b'\]"):
        match_symbols(HUMAN[["gene_a"]], ["x"])


# Bad files ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("e.txt", "", {}, "e.txt is empty"),
        ("e.gmt", "\n", {}, "e.gmt is empty"),
        ("e.txt", "A\nB\n", {}, "e.txt has one column"),
        ("e.csv", "gene_a,gene_b,weight\nA,B,high\n", {}, "'weight' of e.csv .* got 'high'"),
        ("e.csv", "A,B\nA,B,C,D\n", {}, "e.csv cannot be read as a table of text"),
        ("e.csv", "A,B,1\nA,B\n", {}, "Row 2 of e.csv has an empty or missing field"),
        ("e.gz", "A\tB\n", {"format": "biopax"}, "format must be one of auto, .* got 'biopax'"),
        ("e.txt", "a b\nA B\n", {"format": "string"}, "e.txt lacks the columns protein1, "),
        ("e.tsv", "a\tb\nA\tB\n", {"format": "regulon"}, "e.tsv lacks the column source"),
        ("e.tsv", "A\tB\n", {"format": "trrust"}, "has 2 columns; TRRUST has"),
        ("e.tsv", "A\tB\n", {"symbols": "x"}, "symbols applies to the format 'string'"),
        ("e.tsv", "A\tB\n", {"confidence": "A"}, "confidence applies to the format 'regulon'"),
        ("e.csv", "A,B,1\n", {"min_score": 2}, r"holds no edge \(weights below 2 left out\)"),
    ],
)
def test_bad_files(write, name, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_network(write(name, text), **options)


def test_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent.tsv"):
        read_network(tmp_path / "absent.tsv")
    for name in ("data.h5ad", "plain.tsv.gz"):
        path = tmp_path / name
        path.write_bytes(b"\x89HDF\xff\xfe\x00")
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table of text"):
            read_network(path)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table of text"):
            read_gene_sets(path)


def test_scores_of_string_are_numbers(write):
    links = write("links.txt", "protein1 protein2 combined_score\nA B high\n")
    with pytest.raises(ValueError, match=r"links.txt has values of combined_score that are no n"):
        read_network(links, format="string")


def test_an_empty_file_of_symbols_is_named(write):
    links = write("links.txt", "protein1 protein2 combined_score\nA B 900\n")
    with pytest.raises(ValueError, match=r"info.txt cannot be read as a table of text"):
        read_network(links, symbols=write("info.txt", ""))
