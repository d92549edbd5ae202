"""``graphsci simulate``: counts with known truth, of any size, by Splat.

Every parameter of :class:`graphsci.simulation.SplatParams` is a flag, made from the dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from graphsci._cli.command import Flags, command, flag
from graphsci._cli.options import Overwrite, Quiet
from graphsci._terminal import plain_console
from graphsci.io.files import check_writable

#: One line of help for every parameter of Splat.
HELP = {
    "n_genes": "Genes.",
    "batch_cells": "Cells; of each batch, separated by commas, for several batches.",
    "batch_fac_loc": "Batch factors: location of the log-normal.",
    "batch_fac_scale": "Batch factors: scale of the log-normal.",
    "mean_shape": "Gene means: shape of the gamma.",
    "mean_rate": "Gene means: rate of the gamma.",
    "lib_loc": "Library sizes: location of the log-normal; the median is exp of it.",
    "lib_scale": "Library sizes: scale of the log-normal.",
    "out_prob": "Probability that a gene is an outlier.",
    "out_fac_loc": "Outlier factors: location of the log-normal.",
    "out_fac_scale": "Outlier factors: scale of the log-normal.",
    "group_prob": "Probability of each group, separated by commas.",
    "de_prob": "Probability that a gene is differential in a group.",
    "de_down_prob": "Probability that a differential gene goes down.",
    "de_fac_loc": "Differential factors: location of the log-normal.",
    "de_fac_scale": "Differential factors: scale of the log-normal.",
    "bcv_common": "Biological coefficient of variation common to all genes.",
    "bcv_df": "Degrees of freedom of the genes' own variation.",
    "dropout_type": "'none' or 'experiment'.",
    "dropout_mid": "Log rate at which half of the counts are dropped.",
    "dropout_shape": "Slope of the dropout curve; negative: low rates drop more.",
}
#: Second names of flags.
ALIASES = {"n_genes": "--genes", "batch_cells": "--cells"}

Preset = Literal["sim-t2", "sim-t6", "sim-t2-hard", "sim-t6-hard", "splat"]


def _numbers(kind: type, name: str, text: str) -> tuple[Any, ...]:
    """Read ``1,2,3``.

    Raises
    ------
    ValueError
        If a part is no number of that kind.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name}: got {text!r}, expected numbers separated by commas, such as "
            f"{'300,200' if kind is int else '0.5,0.5'}."
        ) from None


def _flags() -> list[inspect.Parameter]:
    """Return one flag, None unless given, for each parameter of Splat."""
    from graphsci._splat_params import SplatParams

    hints = get_type_hints(SplatParams)
    return [_flag(field, hints[field.name]) for field in dataclasses.fields(SplatParams)]


def _flag(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    names = ["--" + field.name.replace("_", "-")]
    names += [ALIASES[field.name]] if field.name in ALIASES else []
    option = typer.Option(*names, help=HELP[field.name], show_default="of the preset")
    shown = str if get_origin(kind) is tuple else kind
    return flag(field.name, Annotated[shown | None, option])


def splat_params(preset: str, options: dict[str, Any]) -> Any:
    """Return a preset's parameters with those changed that were given.

    Raises
    ------
    ValueError
        If a value is not valid, named by its parameter.
    """
    from graphsci._splat_params import PRESETS, SplatParams

    hints = get_type_hints(SplatParams)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if get_origin(hints[name]) is tuple:
            given[name] = _numbers(get_args(hints[name])[0], name, value)
    start = SplatParams() if preset == "splat" else PRESETS[preset]
    return dataclasses.replace(start, **given)


#: The parameters of Splat that were given, by name.
SplatOptions = Annotated[dict[str, Any], Flags(_flags(), dict)]


@command
def simulate(
    preset: Annotated[
        Preset,
        typer.Argument(
            help="The paper's simulations as stated, harder ones, or 'splat': splatter's defaults.",
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write: .h5ad.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Fixes the result.")] = 0,
    true_counts: Annotated[
        bool,
        typer.Option(help="Write the counts before dropout too, layer 'TrueCounts'."),
    ] = True,
    compression: Annotated[
        Literal["gzip", "lzf", "none"], typer.Option(help="Of the matrices.")
    ] = "gzip",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    options: SplatOptions,
) -> None:
    """Simulate counts with known truth; any number of cells, a block in memory at a time."""
    params = splat_params(preset, options)
    from graphsci.simulation import simulate_to_disk

    check_writable(output, suffixes=(".h5ad",), overwrite=overwrite)
    started = time.perf_counter()
    simulate_to_disk(
        output,
        params,
        seed=seed,
        true_counts=true_counts,
        compression=None if compression == "none" else compression,
    )
    spent = time.perf_counter() - started
    said = f"{describe(output)} Took {spent:.1f} s."
    plain_console(quiet=quiet).print(said, soft_wrap=True)


def describe(path: Path) -> str:
    """Return size, zeros and dropout of a simulated file, in a sentence."""
    import h5py

    with h5py.File(path) as file:
        n_cells, n_genes = file["X"].attrs["shape"]
        stored = file["X/data"].shape[0]
        true = file["layers/TrueCounts/data"].shape[0] if "TrueCounts" in file["layers"] else None
    text = f"{path}: {n_cells:,} cells x {n_genes:,} genes, "
    text += f"{1 - stored / (n_cells * n_genes):.1%} zeros"
    if true:
        text += f"; dropout took {1 - stored / true:.1%} of the positive counts"
    return text + "."
