"""What runs on files have in common: counts and known networks to read, outputs to write."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphsci import io
from graphsci._keys import DEFAULT_KEY
from graphsci._log import Log
from graphsci.prior_knowledge import detect_format
from graphsci.prior_knowledge.known_networks import read_known_networks

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from graphsci._jobs.impute import Job
    from graphsci.gene_graph.graph import GeneGraph

#: Names of outputs, and the endings that each may have; any if None.
Endings = dict[str, tuple[str, ...] | None]

#: Share of the free memory from which on an input's matrices stay on disk.
_LARGE = 0.25


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """Which counts are meant, how they are read, and which outputs there can be."""

    ENDINGS: ClassVar[Endings]  #: of the fields that are outputs

    layer: str | None = None
    batch_key: str | None = None
    genes_in: io.GenesIn | None = None
    make_names_unique: bool = False
    allow_fractional: bool = False
    networks: tuple[Path, ...] = ()  #: known gene networks to train with
    network_symbols: Path | None = None  #: names of STRING's proteins
    ignore_case: bool = False  #: match TP53 with Tp53
    key_added: str = DEFAULT_KEY
    overwrite: bool = False

    @property
    def paths(self) -> dict[str, Path]:
        """Outputs that are asked for, by name."""
        found = {name: getattr(self, name) for name in self.ENDINGS}
        return {name: path for name, path in found.items() if path is not None}

    @property
    def where(self) -> dict[str, Any]:
        """Arguments that say which counts are meant."""
        names = ("layer", "batch_key", "allow_fractional")
        return {name: getattr(self, name) for name in names}

    def read(self, source: Path | str, *, backed: bool = False) -> AnnData:
        """Read a file of counts."""
        return io.read_counts(
            source,
            genes_in=self.genes_in,
            backed=backed,
            make_names_unique=self.make_names_unique,
        )

    def read_known(
        self, paths: Sequence[Path], gene_names: ArrayLike, log: Log
    ) -> GeneGraph | None:
        """Join known networks over the genes of the data, and tell what matched; None of none."""
        if not paths:
            return None
        of_string = any(detect_format(path) == "string" for path in paths)
        found = read_known_networks(
            paths,
            gene_names,
            symbols=self.network_symbols if of_string else None,
            ignore_case=self.ignore_case,
        )
        for note in found.notes:
            log(f"known network: {note}")
        return found


def stays_on_disk(job: Job, log: Log) -> bool:
    """Whether the input is left on disk: if asked for, or if it is large for this machine.

    Large: more than a quarter of the memory that is available. In memory, counts are held once
    as they came, and the figures and the output need as much again. A few chosen cells are
    read from disk in any case.
    """
    if job.backed is not None:
        return job.backed
    size, available = io.size_in_memory(job.source), io.available_memory()
    if size is None or available is None:
        return False
    if job.cells is None and size > _LARGE * available:
        log(
            f"{job.source} stays on disk: its matrices would take {size / 2**30:.1f} of "
            f"{available / 2**30:.1f} GiB that are free"
        )
    return job.cells is not None or size > _LARGE * available


def read_names(text: str, kind: str) -> tuple[str, ...]:
    """Names of genes or cells from a file, one a line, or from a comma-separated list.

    Lines of a file that begin with # are comments.
    """
    path, is_file = Path(text), False
    with contextlib.suppress(OSError):  # a long list is too long for a name of a file
        is_file = path.is_file()
    try:
        names = path.read_text(encoding="utf-8-sig").split("\n") if is_file else text.split(",")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{kind}: {text} is no text ({error}); give a file with one name a line."
        ) from None
    stripped = [name.strip() for name in names]
    if is_file:
        stripped = [name for name in stripped if not name.startswith("#")]
    found = tuple(dict.fromkeys(filter(None, stripped)))
    if not found:
        raise ValueError(f"{kind}: {text!r} names none; give names or a file with one a line.")
    return found
