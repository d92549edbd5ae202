"""Gene sets: their file, and the edges between the members of a set."""

from itertools import combinations
from pathlib import Path
from typing import Any

from graphsci.prior_knowledge._text import Table, edge_table, existing, open_text, reading

MAX_SET_SIZE = 100  #: a set of n genes makes n (n - 1) / 2 edges: beyond this, pathways
#: like "signal transduction" (2,600 genes, 3.4 million edges) drown the complexes


def read_gene_sets(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file: name, description, genes, separated by tabs.

    Returns
    -------
    dict
        Name to members, in the file's order, each gene once. Sets of the same
        name are kept apart by a suffix `` (2)``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or no text, or a line has fewer than three fields.
    """
    path = existing(path)
    sets: dict[str, tuple[str, ...]] = {}
    with reading(path), open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, *rest = line.rstrip("\r\n").split("\t")
            members = tuple(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
            if not members:
                raise ValueError(
                    f"Line {number} of {path.name} is not GMT: expected name, description and at "
                    f"least one gene, separated by tabs; got {line[:60].rstrip()!r}."
                )
            sets[_unused(name, sets)] = members
    if not sets:
        raise ValueError(f"{path.name} is empty. Expected one gene set per line.")
    return sets


def edges_of_sets(sets: dict[str, tuple[str, ...]], max_set_size: int) -> Table:
    """Connect the members of every set; the weight counts the sets of a pair."""
    if max_set_size < 2:
        raise ValueError(f"max_set_size must be at least 2, a pair of genes; got {max_set_size}.")
    large = [name for name, members in sets.items() if len(members) > max_set_size]
    weight: dict[tuple[str, str], int] = {}
    for members in sets.values():
        if len(members) <= max_set_size:
            for pair in combinations(sorted(members), 2):
                weight[pair] = weight.get(pair, 0) + 1
    notes = []
    if large:
        notes.append(f"{len(large)} of {len(sets)} sets of more than {max_set_size} genes left out")
    pairs = list(weight)
    return (
        edge_table([a for a, _ in pairs], [b for _, b in pairs], list(weight.values())),
        notes,
    )


def _unused(name: str, taken: dict[str, Any]) -> str:
    if name not in taken:
        return name
    return next(f"{name} ({n})" for n in range(2, len(taken) + 3) if f"{name} ({n})" not in taken)
