"""What ``graphsci network`` does with files: check all requests, train, rank, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from graphsci import io
from graphsci import network as nw
from graphsci._choices import N_NEIGHBORS, N_SHOWN_GENES
from graphsci._imputing.model_io import RECORD
from graphsci._jobs.checks import check_networks, check_outputs
from graphsci._jobs.files import Endings, FileJob
from graphsci._keys import DEFAULT_KEY, keys
from graphsci._log import Log, say_nothing
from graphsci._optional import networkx
from graphsci._words import few, no_such_file, similar_names
from graphsci.config import Config
from graphsci.imputer import GraphSCI
from graphsci.io.files import atomic_path
from graphsci.io.sources import to_csr
from graphsci.network._search import Findings, Search
from graphsci.network._stored import edges_by_label
from graphsci.network.files import write_table
from graphsci.network.modules import leiden, sets_inside, trusted
from graphsci.preprocessing import detected_genes, find_matrix
from graphsci.prior_knowledge import read_gene_sets

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.training.loop import Progress

#: Endings of tables.
_TABLES = (".tsv", ".csv")
#: Outputs that show modules, and those that networkx makes.
_WITH_MODULES = frozenset({"modules", "enrichment", "h5ad", "graphml", "cx2", "cyjs", "picture"})
_BY_NETWORKX = frozenset({"graphml", "cyjs", "picture"})


@dataclass(frozen=True)
class NetworkJob(FileJob):
    """What to read, how to rank, and where to write."""

    ENDINGS: ClassVar[Endings] = {
        "output": _TABLES,
        "graphml": (".graphml",),
        "cx2": (".cx2",),
        "cyjs": (".cyjs",),
        "sif": (".sif",),
        "h5ad": io.ANNDATA_SUFFIXES,
        "modules": _TABLES,
        "enrichment": _TABLES,
        "label_edges": _TABLES,
        "picture": (".png", ".pdf", ".svg"),
    }

    source: Path  #: folder of a model, or counts to train on
    output: Path
    data: Path | None = None  #: the counts that a model was trained on
    graphml: Path | None = None
    cx2: Path | None = None
    cyjs: Path | None = None
    sif: Path | None = None
    h5ad: Path | None = None
    modules: Path | None = None
    gene_sets: Path | None = None
    enrichment: Path | None = None
    label_key: str | None = None  #: column of obs: one network for each group of cells
    label_edges: Path | None = None
    picture: Path | None = None
    priors: tuple[Path, ...] = ()  #: known networks to report beside the other evidence
    genes: tuple[str, ...] | None = None
    max_genes: int | None = None  #: that are shown with ``genes``; :data:`N_SHOWN_GENES` if None
    min_confidence: float | None = None
    n_neighbors: int = N_NEIGHBORS
    control: bool = True
    n_models: int = 1

    @property
    def is_model(self) -> bool:
        """Whether the source is a trained model."""
        return self.source.is_dir() and (self.source / RECORD).is_file()

    @property
    def counts(self) -> Path | None:
        """File with the counts, if there is one."""
        return self.data if self.is_model else self.source


def run(
    job: NetworkJob,
    config: Config,
    *,
    log: Log = say_nothing,
    progress: Progress | None = None,
) -> Findings:
    """Rank the relations between genes and write what was asked for.

    Raises
    ------
    ValueError, TypeError, OSError
        Whatever is wrong with outputs, options, known networks or counts: before training.
    """
    check_outputs(job)
    _check_options(job, config)
    sets = None if job.gene_sets is None else read_gene_sets(job.gene_sets)
    adata = _read_counts(job, log)
    loaded = GraphSCI.load(job.source, device=config.device) if job.is_model else None
    if loaded is not None and adata is not None:
        log(f"genes: {loaded.match(adata).summary()}")  # refuses the counts of something else
    names = _genes_known(loaded, adata)
    known, prior = (job.read_known(paths, names, log) for paths in (job.networks, job.priors))
    if job.genes is not None:
        _check_genes(job, _genes_of_network(job, loaded, adata))
    if sets is not None:
        sets_inside(sets, set(map(str, names)))
    search = Search(
        where=job.where,
        prior=prior,
        n_neighbors=job.n_neighbors,
        control=job.control,
        modules=bool(_WITH_MODULES & set(job.paths)),
        min_confidence=job.min_confidence,
        label_key=job.label_key,
        n_models=job.n_models,
    )
    if adata is not None:
        for note in search.check(adata):
            log(note)
    found = search.run(adata, config, loaded, gene_graph=known, log=log, progress=progress)
    shown = _shown(job, found.network)
    by_label = {label: _shown(job, network) for label, network in found.by_label.items()}
    for name in ("output", "graphml", "cx2", "cyjs", "sif"):
        if name in job.paths:
            nw.write_network(shown, job.paths[name], modules=found.modules)
    if job.label_edges is not None:
        _write_table(edges_by_label(by_label), job.label_edges)
    _write(job, found, adata, sets)
    if job.picture is not None and shown.n_edges:
        _draw(shown, found.modules, job.genes or (), job.picture)
    elif job.picture is not None:
        log("no picture: the network has no edge to draw")
    return found._replace(network=shown, by_label=by_label)


def written(job: NetworkJob, found: Findings) -> list[Path]:
    """Return the files that :func:`run` wrote: there is no picture of no edge."""
    return [p for name, p in job.paths.items() if name != "picture" or found.network.n_edges]


# --- checks -----------------------------------------------------------------------------


def _check_options(job: NetworkJob, config: Config) -> None:
    """Refuse what does not go together."""
    keys(job.key_added)  # refuses what is no name
    has_data = job.counts is not None
    where = {"layer": job.layer, "batch-key": job.batch_key, "genes-in": job.genes_in}
    unused = [f"--{name}" for name, value in where.items() if value is not None]
    if unused and not has_data:
        raise ValueError(f"{', '.join(unused)}: about counts, but none are given (--data).")
    if job.key_added != DEFAULT_KEY and job.h5ad is None:
        raise ValueError("--key-added names results in an AnnData: ask for one (--h5ad).")
    if job.picture is not None and job.genes is not None:
        _check_picture(len(job.genes))
    if job.max_genes is not None and job.genes is None:
        raise ValueError("--max-genes goes with --genes: it limits the partners shown of them.")
    if job.data is not None and not job.is_model:
        raise ValueError("--data goes with a model folder; these counts are the input already.")
    if job.n_models > 1 and job.is_model:
        raise ValueError("--n-models trains on counts: give the counts instead of a model.")
    if job.networks and job.is_model:
        raise ValueError("--network trains on counts: give the counts instead of a model.")
    changed = [name for name in config.changes() if name not in ("seed", "device")]
    if changed and job.is_model:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"{flags}: only for training. Give the counts instead of a model.")
    if "seed" in config.changes() and not (has_data or _WITH_MODULES & set(job.paths)):
        raise ValueError(
            "--seed: nothing here is random, as no counts are given (--data) and no modules are "
            "asked for (--modules). Leave it out."
        )
    check_networks(job, read=(*job.networks, *job.priors))
    for name in ("h5ad", "label_key"):
        if getattr(job, name) is not None and not has_data:
            raise ValueError(f"--{name.replace('_', '-')} needs counts: give --data.")
    if job.min_confidence is not None and not (has_data and job.control):
        raise ValueError(
            "--min-confidence needs a control: give the counts (--data) and leave --control on."
        )
    if (job.gene_sets is None) != (job.enrichment is None):
        raise ValueError("--gene-sets and --enrichment go together: sets in, table out.")
    if job.label_edges is not None and job.label_key is None:
        raise ValueError("--label-edges goes with --label-key: labels in, table out.")
    if job.label_key is not None and job.label_edges is None and job.h5ad is None:
        raise ValueError("--label-key goes with --label-edges or --h5ad: labels in, networks out.")
    if _WITH_MODULES & set(job.paths):
        leiden()
    if _BY_NETWORKX & set(job.paths):
        networkx()


def _check_picture(n_genes: int) -> None:
    from graphsci.pl._networks import MOST_GENES

    if n_genes > MOST_GENES:
        raise ValueError(
            f"--picture: got {n_genes} genes (--genes), expected at most {MOST_GENES}. "
            "Choose fewer, or leave the picture out."
        )


def _genes_known(loaded: GraphSCI | None, adata: AnnData | None) -> pd.Index:
    """Genes that may be meant: those of the counts, or of the model without any."""
    if adata is not None:
        return adata.var_names
    assert loaded is not None
    return pd.Index(loaded.gene_names)


def _genes_of_network(job: NetworkJob, loaded: GraphSCI | None, adata: AnnData | None) -> pd.Index:
    """Genes that the network will have: those of the model, or those with counts."""
    if loaded is not None:
        return pd.Index(loaded.gene_names)
    assert adata is not None
    counts = to_csr(find_matrix(adata, job.layer))
    return adata.var_names[detected_genes(counts)]


def _check_genes(job: NetworkJob, names: pd.Index) -> None:
    known = set(names)
    unknown = [gene for gene in job.genes or () if gene not in known]
    if unknown:
        told = [f"{gene}{similar_names(gene, names)}" for gene in unknown[:5]]
        raise ValueError(
            f"genes: {', '.join(told)} not among the {len(known)} genes of the network: "
            f"those {'of the model' if job.is_model else 'with counts'}. Check spelling and case."
            f"{no_such_file(job.genes or ())}"
        )


# --- reading ----------------------------------------------------------------------------


def _read_counts(job: NetworkJob, log: Log) -> AnnData | None:
    if job.counts is None:
        return None
    log(f"reading {job.counts}")
    return job.read(job.counts)


# --- writing ----------------------------------------------------------------------------


def _shown(job: NetworkJob, network: nw.GeneNetwork) -> nw.GeneNetwork:
    """Edges around the genes asked for, with a note of what is still of all genes."""
    if job.genes is None:
        return network
    most = N_SHOWN_GENES if job.max_genes is None else job.max_genes
    shown = network.around(job.genes, max_genes=most)
    note = (
        f"{shown.n_edges:,} of {network.n_edges:,} edges are around {few(job.genes)}, and are "
        "written; modules with their hubs, enrichment and --h5ad are of the whole network"
    )
    return shown._replace(notes=(*shown.notes, note))


def _write(
    job: NetworkJob,
    findings: Findings,
    adata: AnnData | None,
    sets: dict[str, tuple[str, ...]] | None,
) -> None:
    """Write what describes the whole network, whatever genes are shown."""
    modules = findings.modules
    if job.h5ad is not None and adata is not None:
        found, model = findings.network, findings.model
        nw.annotate_network(
            adata,
            found,
            modules=modules,
            by_label=findings.by_label,
            model=model,
            key_added=job.key_added,
        )
        io.write_anndata(adata, job.h5ad)
    if job.modules is not None and modules is not None:
        _write_table(modules, job.modules)
    if job.enrichment is not None and modules is not None and sets is not None:
        background = trusted(findings.network).linked_genes
        enriched = nw.enrich_modules(modules, sets, background=background)
        _write_table(enriched, job.enrichment)


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        write_table(table, temporary)


def _draw(
    found: nw.GeneNetwork, modules: pd.DataFrame | None, genes: tuple[str, ...], path: Path
) -> None:
    from matplotlib.figure import Figure

    from graphsci import pl
    from graphsci.pl._graph_drawing import size_for
    from graphsci.pl._networks import MOST_GENES

    shown = min(max(N_SHOWN_GENES, len(found.gene_names) if genes else 0), MOST_GENES)
    figure = Figure(figsize=size_for(shown), layout="constrained")
    pl.gene_network(found, genes=genes, modules=modules, max_genes=shown, ax=figure.add_subplot())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
