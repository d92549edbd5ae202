"""Names of every AnnData slot that graphsci reads or writes, in one place.

All of them hang on ``key_added`` (default ``"graphsci"``), so that two runs can
live in one object.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_KEY = "graphsci"


class Keys(NamedTuple):
    """AnnData slots of one run."""

    key_added: str
    prefix: str  #: put in front of the names of layers; empty by default

    @property
    def uns(self) -> str:
        """Run record: parameters, versions, seed, scales, verdict."""
        return self.key_added

    @property
    def latent(self) -> str:
        """``obsm``: cell embedding (cells, latent)."""
        return f"X_{self.key_added}"

    @property
    def gene_embedding(self) -> str:
        """``varm``: gene embedding (genes, latent)."""
        return self.key_added

    @property
    def gene_graph(self) -> str:
        """``varp``: gene graph A (genes, genes), sparse."""
        return f"{self.key_added}_graph"

    @property
    def network(self) -> str:
        """``varp`` and ``uns``: the refined gene network, its strengths and its table."""
        return f"{self.key_added}_network"

    @property
    def networks_by_label(self) -> str:
        """``uns``: the networks of groups of cells, their tables with a column ``label``."""
        return f"{self.key_added}_network_by_label"

    @property
    def module(self) -> str:
        """``var``: module of each gene in that network, -1 outside of modules."""
        return f"{self.key_added}_module"

    @property
    def inverse_dispersion(self) -> str:
        """``var``: theta of each gene in an average cell; variance = mu + mu^2 / theta."""
        return f"{self.key_added}_inverse_dispersion"

    @property
    def variation_p(self) -> str:
        """``var``: p-value of predictable variation; a small one says that the gene varies."""
        return f"{self.key_added}_variation_p"

    @property
    def state_weight(self) -> str:
        """``var``: how far a gene follows the state of the cell, from 0.01 to 1."""
        return f"{self.key_added}_state_weight"

    @property
    def copies(self) -> str:
        """``var``: counts that a molecule of a gene left, where counts were divided by them."""
        return f"{self.key_added}_copies"

    @property
    def library(self) -> str:
        """``obs``: counts of each cell in all genes that there were when a run was written."""
        return f"{self.key_added}_library"

    @property
    def size_factor(self) -> str:
        """``obs``: depth of each cell by its counts in the model's genes, 1 the common depth."""
        return f"{self.key_added}_size_factor"

    @property
    def certainty(self) -> str:
        """``obs``: how closely each cell keeps to its state; multiplies theta."""
        return f"{self.key_added}_certainty"

    @property
    def misfit(self) -> str:
        """``obs``: how badly the model fits each cell; above 1 as 1 % of cells of known kinds."""
        return f"{self.key_added}_misfit"

    @property
    def columns_of_cells(self) -> tuple[str, ...]:
        """Columns of ``obs`` that a run writes."""
        return (self.library, self.size_factor, self.certainty, self.misfit)

    @property
    def beside_estimates(self) -> tuple[tuple[str, str], ...]:
        """Attribute and name of every slot that a run fills besides its estimates."""
        return (
            ("uns", self.uns),
            *(("obs", name) for name in self.columns_of_cells),
            ("obsm", self.latent),
            ("varm", self.gene_embedding),
            ("varp", self.gene_graph),
            ("var", self.inverse_dispersion),
            ("var", self.variation_p),
            ("var", self.state_weight),
            ("var", self.copies),
        )

    def layer(self, estimate: str) -> str:
        """``layers``: an estimate, e.g. ``denoised`` or ``denoised_sd``."""
        return f"{self.prefix}{estimate}"

    def table(self, estimate: str) -> str:
        """``obsm``: an estimate of chosen genes."""
        return f"{self.key_added}_{self.layer(estimate)}"


def keys(key_added: str = DEFAULT_KEY, *, prefix: str = "") -> Keys:
    """Return the slots of the run named ``key_added``.

    Raises
    ------
    ValueError
        If ``key_added`` is empty, or a name has a slash: a file takes it for a group in a group,
        and is not read again.
    """
    if not key_added:
        raise ValueError("key_added (--key-added): got an empty name, expected one, e.g. graphsci.")
    for option, name in (("key_added", key_added), ("prefix", prefix)):
        if "/" in name:
            raise ValueError(
                f"{option} (--{option.replace('_', '-')}): got {name!r}, expected a name without "
                "'/', which no slot of an AnnData file may have. Use '_' instead."
            )
    return Keys(key_added, prefix)


def is_run_record(value: Any) -> bool:
    """Whether an entry of ``uns`` is what a run said of itself."""
    return isinstance(value, Mapping) and {"estimates", "config", "versions"} <= set(value)
