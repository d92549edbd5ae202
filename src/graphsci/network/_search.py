"""All steps to a network in their order: train, train with shuffled genes, rank, find modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from graphsci._log import Log
from graphsci.config import Config, later_seed
from graphsci.gene_graph.graph import GeneGraph
from graphsci.imputer import GraphSCI
from graphsci.network import ranking
from graphsci.network._table import GeneNetwork, check_confidence
from graphsci.network.modules import find_modules, leiden, trusted
from graphsci.network.null import check_control, train_control

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.training.loop import Progress

#: Seeds of further models are this far from the first, so that they meet no other run's.
_SEED_STEP = 1000


class Findings(NamedTuple):
    """What was found."""

    network: GeneNetwork
    modules: pd.DataFrame | None  #: of the confident edges; of all where none has a confidence
    by_label: dict[str, GeneNetwork]
    model: GraphSCI  #: that the relations come from


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is wanted of a network: ``tl.gene_network`` and ``graphsci network`` in one."""

    where: dict[str, Any]  #: arguments that say which counts are meant
    prior: pd.DataFrame | GeneGraph | None
    n_neighbors: int
    control: bool  #: of counts, if there are any
    modules: bool
    min_confidence: float | None
    label_key: str | None = None  #: one more network for each group of cells
    n_models: int = 1

    def check(self, adata: AnnData) -> list[str]:
        """Refuse, before any training, what would be refused after it.

        Returns which cells the networks of groups leave out.
        """
        if self.min_confidence is not None:
            check_confidence(self.min_confidence)
            if not self.control:
                raise ValueError("min_confidence needs a control: leave control=True.")
        ranking.check_neighbors(self.n_neighbors)
        if self.control:
            check_control(adata)
        ranking.prior_graph(self.prior, adata.var_names)
        if self.modules:
            leiden()
        if self.label_key is None:
            return []
        ranking.large_groups(adata, self.label_key)
        return ranking.left_out_notes(adata, self.label_key)

    def run(
        self,
        adata: AnnData | None,
        config: Config,
        model: GraphSCI | None,
        *,
        gene_graph: Any,
        log: Log,
        progress: Progress | None,
    ) -> Findings:
        """Find the network of a model, or of counts; ``config`` has the seed, and all of training.

        ``adata`` or ``model`` may be None. ``gene_graph`` is for training, as in ``GraphSCI.fit``.
        """
        heard: dict[str, Any] = {**self.where, "progress": progress, "log": log}

        def train(config: Config, *, whole: bool = False) -> GraphSCI:
            assert adata is not None
            return GraphSCI(config).fit(adata, gene_graph=gene_graph, whole=whole, **heard)

        model = train(config) if model is None else model
        seeds = (later_seed(config.seed, _SEED_STEP + n) for n in range(self.n_models - 1))
        # what half a model does not agree on would be no doubt
        more = [train(config.replace(seed=seed), whole=True) for seed in seeds]
        control = None
        if self.control and adata is not None:
            control = train_control(model, adata, **heard)
        evidence = {
            **self.where,
            "models": more,
            "control": control,
            "prior": self.prior,
            "n_neighbors": self.n_neighbors,
            "seed": config.seed,
        }
        log("ranking edges")
        found = self._confident(ranking.refine_network(model, adata, **evidence))
        by_label = {}
        if self.label_key is not None and adata is not None:
            networks = ranking.networks_by_label(model, adata, label_key=self.label_key, **evidence)
            by_label = {label: self._confident(network) for label, network in networks.items()}
        modules = find_modules(trusted(found), seed=config.seed) if self.modules else None
        return Findings(found, modules, by_label, model)

    def _confident(self, network: GeneNetwork) -> GeneNetwork:
        """Edges of the confidence asked for."""
        return network if self.min_confidence is None else network.confident(self.min_confidence)
