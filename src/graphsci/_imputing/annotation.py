"""What is written into an AnnData beside estimates: what was learned of genes, the run record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci import estimates as es
from graphsci._imputing import estimating
from graphsci._imputing.estimating import Cells, EstimateBlock
from graphsci._imputing.request import Request
from graphsci._keys import Keys, is_run_record
from graphsci._versions import versions
from graphsci.gene_graph._edges import spread
from graphsci.preprocessing import match_genes

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.imputer import GraphSCI
    from graphsci.nn.model import CountNetwork


def annotate_cells(
    model: GraphSCI,
    adata: AnnData,
    cells: Cells,
    slots: Keys,
    found: EstimateBlock,
) -> None:
    """Write the embedding of all cells and what follows from it, misfit and library sizes."""
    adata.obsm[slots.latent] = embedding = found.values[slots.latent]
    _set_column(adata.obs, slots.library, cells.totals)
    _set_column(adata.obs, slots.size_factor, found.size_factors)
    count = model.count_network
    certainty = None if count is None else estimating.cell_certainty(count, embedding)
    _set_column(adata.obs, slots.certainty, certainty)
    _set_column(adata.obs, slots.misfit, found.misfit)


def _set_column(table: pd.DataFrame, name: str, values: NDArray[np.floating] | None) -> None:
    """Put values into a column of a table, in place; remove it if there are none."""
    table.drop(columns=name, errors="ignore", inplace=True)
    if values is not None:
        table[name] = values


def annotate_genes(model: GraphSCI, adata: AnnData, slots: Keys) -> None:
    """Write gene embedding, graph and dispersions for the genes of ``adata``."""
    spec = model.fitted.spec
    position = match_genes(
        np.asarray(adata.var_names, dtype=np.str_), model.gene_names, min_fraction=0.0
    ).positions  # where each gene of adata stands in the model
    known = position >= 0
    embedding = model.gene_embedding().to_numpy()
    adata.varm[slots.gene_embedding] = np.where(known[:, None], embedding[position], np.nan).astype(
        np.float32
    )
    graph = spec.graph.adjacency[position[known]][:, position[known]]
    adata.varp[slots.gene_graph] = spread(graph, np.flatnonzero(known), adata.n_vars)
    columns = {
        slots.inverse_dispersion: model.inverse_dispersion(),
        slots.variation_p: model.variation_p_values(),
        slots.state_weight: model.state_weights(),
        slots.copies: model.copies(),
    }
    for name, values in columns.items():
        placed = None if values is None else np.where(known, values.to_numpy()[position], np.nan)
        _set_column(adata.var, name, placed)


def _of_axes(network: CountNetwork) -> dict[str, list[float]]:
    """What each axis of the cell embedding is for, (latent,) each.

    Its standard deviation over the cells trained on, and its weight in the log certainty.
    """
    return {
        "axis_sd": network.uncertainty.states.spread.tolist(),
        "certainty_weights": network.certainty_weights().tolist(),
    }


def _in_batch(unit: str, as_batch: str | None) -> dict[str, str]:
    """Say of which batch estimates in this ``unit`` are."""
    if as_batch is None:
        return {"unit": f"{unit}, in each cell's own batch"}
    return {"unit": f"{unit}, as of batch {as_batch!r}", "as_batch": as_batch}


def _unchecked(request: Request) -> list[str]:
    """Say of which estimates that are asked for the check is not."""
    moved = request.as_batch is not None
    wanted = [name for name in es.ESTIMATES if name in request.names]
    others = [repr(name) for name in wanted if moved or name != "denoised"]
    if not others:
        return []
    where = f" as of batch {request.as_batch!r}" if moved else ""
    checked = "'denoised' in each cell's own batch" if moved else "'denoised'"
    return [
        f"The check is of the estimate {checked}: of {' and '.join(others)}{where} nothing was "
        "tested."
    ]


def run_record(
    model: GraphSCI, request: Request, *, stored: Callable[[str], str] = str
) -> dict[str, Any]:
    """The run record that travels with every output, as plain values.

    ``stored`` says under which name an estimate is stored.
    """
    fitted, count = model.fitted, model.count_network
    notes = list(fitted.notes)
    if fitted.verdict is not None:
        notes += _unchecked(request)
    level = request.interval
    depth = fitted.spec.common_counts
    scales = es.describe_scale(request.depth, request.scale, median_library=depth)
    if fitted.spec.batch_names:
        scales |= _in_batch(scales["unit"], request.as_batch)
    return {
        "estimates": {
            stored(name): {
                "meaning": es.MEANINGS[name],
                **scales,
                **({"level": level} if name.endswith(("_lower", "_upper")) else {}),
            }
            for name in request.names
        },
        **({} if level is None else {"interval_level": level}),
        **({} if request.as_batch is None else {"as_batch": request.as_batch}),
        "config": fitted.spec.config.to_dict(),
        "seed": fitted.spec.config.seed,
        "likelihood": fitted.spec.likelihood,
        "common_depth": depth,
        "copies": float(np.median(fitted.spec.copies)),
        "dropout_curve": model.dropout_curve() or {},
        **({} if count is None else _of_axes(count)),
        "training": {
            "epochs": len(fitted.history),
            "best_epoch": fitted.best_epoch,
            "stopped": fitted.stopped,
        },
        "verdict": {} if fitted.verdict is None else fitted.verdict.to_dict(),
        "batches": list(fitted.spec.batch_names),
        "notes": notes,
        "versions": versions(),
    }


def record_of_data(
    model: GraphSCI,
    adata: AnnData,
    cells: Cells,
    request: Request,
    slots: Keys,
    *,
    stored: Callable[[str], str],
    layer: str | None,
) -> dict[str, Any]:
    """:func:`run_record`, with where the counts were, how they match the model, and what was there.

    What an earlier record says of estimates stays as long as they are in ``adata``.
    """
    record = run_record(model, request, stored=stored)
    record["counts"] = "X" if layer is None else f"layers/{layer}"
    record["gene_match"] = cells.match.summary()
    record["batch_key"] = cells.batch_key or ""
    present = {*adata.layers, *adata.obsm}
    for name, said in earlier_estimates(adata, slots).items():
        if name in present:
            record["estimates"].setdefault(name, said)
    return record


def without_replaced(adata: AnnData, replaced: Iterable[str], slots: Keys) -> dict[str, Any]:
    """Records of other runs, by their keys, that described estimates now ``replaced``.

    Each without these: what it says of them would be read as if it were of the new ones.
    """
    replaced, found = set(replaced), {}
    for key, record in adata.uns.items():
        if key != slots.uns and is_run_record(record) and replaced & set(record["estimates"]):
            described = record["estimates"]
            left = {name: described[name] for name in described if name not in replaced}
            found[key] = {**record, "estimates": left}
    return found


def earlier_estimates(adata: AnnData, slots: Keys) -> Mapping[str, Any]:
    """What an earlier run under the same key says of its estimates, by name."""
    earlier = adata.uns.get(slots.uns)
    return earlier.get("estimates", {}) if isinstance(earlier, Mapping) else {}


def replaced_notes(adata: AnnData, layers: Sequence[str], slots: Keys) -> list[str]:
    """What to say of layers and other slots that a run replaces and that no record says are its."""
    own = earlier_estimates(adata, slots)
    layers = [name for name in layers if name in adata.layers and name not in own]
    others = _foreign_slots(adata, slots)
    if (layers or others) and _lacks_record(adata, slots):
        return [
            f"{', '.join([*(f'layers[{name!r}]' for name in layers), *others])} will be replaced. "
            f"They look like those of an earlier run {slots.uns!r} whose record, "
            f"uns[{slots.uns!r}], is gone: anndata.concat leaves it out, and its parts may have "
            "been estimated by different models. Keep them with other names for this run: "
            "key_added='graphsci_2', prefix='graphsci_2_'."
        ]
    notes = []
    if layers:
        notes.append(
            f"layers {', '.join(map(repr, layers))} are replaced, which no run {slots.uns!r} "
            "wrote. Keep them with a prefix: prefix='graphsci_'."
        )
    if others:
        notes.append(
            f"{', '.join(others)} will be replaced, and no record says that a run {slots.uns!r} "
            "wrote them. Keep them with another name for this run: key_added='graphsci_2'."
        )
    return notes


def _lacks_record(adata: AnnData, slots: Keys) -> bool:
    """Whether what every run writes of cells is there, and nothing in its record's place."""
    of_cells = slots.library in adata.obs and slots.misfit in adata.obs
    return of_cells and slots.latent in adata.obsm and slots.uns not in adata.uns


def _foreign_slots(adata: AnnData, slots: Keys) -> list[str]:
    """Slots beside estimates that are there, and that no record says a run of this key wrote."""
    if is_run_record(adata.uns.get(slots.uns)):
        return []
    of_genes = () if slots.network not in adata.uns else ("var", "varm", "varp")  # a network's own
    return [
        f"{place}[{name!r}]"
        for place, name in slots.beside_estimates
        if name in getattr(adata, place) and place not in of_genes
    ]
