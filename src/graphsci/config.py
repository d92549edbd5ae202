"""Every hyper-parameter, once: its default, its reason, its bounds.

The command line's flags, the configuration file, the run record and the checkpoint are all
derived from the fields below. Presets are instances: ``default`` is the best we know,
``paper`` is the published method (Rao et al., iScience 2021).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np


def _option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    preset: str | None = None,
) -> Any:
    """Declare a hyper-parameter: default, one line of help, inclusive bounds, its only preset."""
    said = help if preset is None else f"{help} Only with preset {preset!r}."
    metadata = {"help": said, "low": low, "high": high, "preset": preset}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """All hyper-parameters of a run. Immutable; change one with :meth:`replace`."""

    preset: Literal["default", "paper"] = _option(
        "default", "The model: 'default' is the most accurate, 'paper' is equations 3-22."
    )
    likelihood: Literal["auto", "nb", "zinb"] = _option(
        "auto",
        "Distribution of the counts: 'nb' (molecules), 'zinb' (reads with dropout), or 'auto': "
        "zinb only if zeros exceed what an NB predicts.",
    )
    copies: float = _option(
        0.0,
        "Counts that a molecule left, by which counts are divided before anything is learned; "
        "estimates are multiplied by it again. 0 chooses: 1 for molecules (UMI); for reads, what "
        "zeros and variances of the counts show. 1 takes every count for a molecule.",
        low=0.0,
    )
    # -- the gene graph (eq. 2) ------------------------------------------------------------
    graph: Literal["pearson", "coexpressed", "noise", "pidc", "none"] = _option(
        "noise",
        "Source of the gene graph: 'pearson' of log-normalised counts, 'coexpressed' (the same "
        "over cells in which both genes were detected), 'noise' (Pearson corrected for sampling "
        "noise, significant edges only), 'pidc' (information that two genes share with no third; "
        "at most 5,000 genes), or 'none'.",
    )
    graph_threshold: float = _option(
        0.3,
        "An edge needs an absolute correlation above this (paper: 0.3); with graph 'pidc' it needs "
        "a confidence of 0.95 instead.",
        low=0.0,
        high=1.0,
    )
    graph_top_k: int = _option(
        20,
        "Keep an edge that is among this many strongest of either of its genes; 0 keeps all.",
        low=0,
    )
    network_weight: float = _option(
        1.0,
        "Weight of a known network beside the graph computed from the counts, whose weight is "
        "1 minus this; 1 takes the known network alone.",
        low=0.001,
        high=1.0,
    )
    # -- the model ---------------------------------------------------------------------------
    n_latent: int = _option(32, "Dimension of the cell and gene embeddings (paper: 32).", low=1)
    n_hidden: int = _option(128, "Units of the hidden layer.", low=1)
    dropout_rate: float = _option(
        0.1, "Share of hidden units silenced in training.", low=0.0, high=0.95
    )
    loading_scale: float = _option(
        0.0,
        "Prior standard deviation of a gene's encoder weights, and of its loadings before "
        "training, in log expression per unit of the latent space; keeps genes with few molecules "
        "at their mean. In training the prior of the loadings is learned, direction by direction, "
        "and gets no narrower than this. "
        "0 chooses: 0.07 for fewer than 500 cells, more for more, up to 0.1 from 1,000 on.",
        low=0.0,
        high=100.0,
        preset="default",
    )
    variation_level: float = _option(
        0.2,
        "A gene follows the state of the cell as far as a test, of its counts on the state "
        "that other genes show, makes it likely that it does, if it passes at this level (one "
        "independent gene in five passes 0.2), or at a higher one where the test is so weak that "
        "most genes above still vary; else "
        "it keeps its mean share but for a trace, so that no correlation is invented. 1 lets all "
        "genes vary in full.",
        low=0.0,
        high=1.0,
        preset="default",
    )
    l2: float = _option(1e-3, "L2 penalty on the encoders' weights.", low=0.0, preset="paper")
    # -- training ----------------------------------------------------------------------------
    max_epochs: int = _option(
        0, "Passes over the cells; 0 chooses: enough passes for a steady number of steps.", low=0
    )
    batch_size: int = _option(
        0,
        "Cells per step; 0 chooses: an eighth of the cells (preset 'paper': a twentieth), between "
        "32 and 128. Batch norm needs at least 2.",
        low=0,
    )
    learning_rate: float = _option(0.01, "Peak learning rate of Adam (paper: 0.01).", low=0.0)
    lr_decay: float = _option(
        0.9,
        "Factor of the learning rate every lr_decay_steps steps (paper: 0.9); 1 keeps it.",
        low=0.01,
        high=1.0,
        preset="paper",
    )
    lr_decay_steps: int = _option(
        50, "Steps in which the learning rate falls by lr_decay (paper: 50).", low=1, preset="paper"
    )
    kept_low: float = _option(
        0.4,
        "Training by thinning: every step encodes a random share of the molecules and predicts "
        "the rest. The share is uniform between kept_low and kept_high.",
        low=0.05,
        high=0.95,
        preset="default",
    )
    kept_high: float = _option(
        0.9, "Largest share that is encoded.", low=0.05, high=0.95, preset="default"
    )
    least_scored: float = _option(
        0.45,
        "Of many molecules the kept ones say nearly all of the rest, so that little of what a gene "
        "counts is scored. Genes of which it is less than this share are hidden from the encoder "
        "altogether in some steps, and predicted from the others; 0 hides none.",
        low=0.0,
        high=0.9,
        preset="default",
    )
    validation_fraction: float = _option(
        0.1,
        "Share of the cells that decides when to stop: by their held-out molecules ('default') "
        "or by their likelihood ('paper', which does not train on them). At least 20 cells decide, "
        "or half of them if there are fewer than 40.",
        low=0.0,
        high=0.5,
    )
    patience: int = _option(
        0,
        "Stop after this many epochs without improvement; 0 finishes the cycle of the learning "
        "rate, whose last, small steps gain most. The best weights are kept in any case.",
        low=0,
    )
    # -- the check ---------------------------------------------------------------------------
    check: bool = _option(
        True, "Hold out molecules and compare with doing nothing, gene means and pooling."
    )
    held_out_fraction: float = _option(
        0.1, "Share of the molecules held out for the check.", low=0.01, high=0.5
    )
    # -- the machine -------------------------------------------------------------------------
    device: str = _option("auto", "'auto' (GPU if there is one), 'cpu', 'cuda' or 'cuda:N'.")
    precision: Literal["float32", "bf16"] = _option(
        "float32",
        "'bf16' does the matrix products in bfloat16, likelihoods stay in float32; faster on "
        "recent GPUs; preset 'default' only.",
    )
    seed: int = _option(0, "Seed of every random choice.", low=0, high=2**32 - 1)

    def __new__(cls, *values: Any, **options: Any) -> Config:
        """Refuse unknown names, with the nearest known one."""
        _refuse_unknown(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuse values out of bounds, naming the field."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field, hints, getattr(self, field.name)))
        for field in fields(self):
            only, value = field.metadata["preset"], getattr(self, field.name)
            if only not in (None, self.preset) and value != field.default:
                raise ValueError(
                    f"{field.name}: got {value} with preset {self.preset!r}, but only preset "
                    f"{only!r} uses it. Leave it out."
                )
        if self.precision == "bf16" and self.preset == "paper":
            raise ValueError(
                "precision: got 'bf16' with preset 'paper', whose sparse products need 'float32'."
            )
        if 0 < self.loading_scale < 1e-6:
            raise ValueError(
                f"loading_scale: got {self.loading_scale}, expected 0 (chosen for you) or at least "
                "1e-6."
            )
        if 0 < self.copies < 1:
            raise ValueError(
                f"copies: got {self.copies}, expected 0 (chosen for you) or at least 1 count of "
                "each molecule."
            )
        if self.batch_size == 1:
            raise ValueError("batch_size: got 1, expected 0 (chosen for you) or at least 2 cells.")
        if self.kept_low > self.kept_high:
            raise ValueError(
                f"kept_low: got {self.kept_low}, expected at most kept_high = {self.kept_high}."
            )

    def replace(self, **changes: Any) -> Config:
        """Return a copy with some fields changed; an unknown name is refused.

        Parameters
        ----------
        **changes
            Fields and their new values. The preset itself cannot be changed: its sizes come with
            it. Use :func:`preset`.
        """
        _refuse_unknown(changes)
        if changes.get("preset", self.preset) != self.preset:
            raise ValueError(
                f"preset: this configuration is {self.preset!r}; start from "
                f"graphsci.preset({changes['preset']!r}) to get that preset's sizes."
            )
        changed, usual = dataclasses.replace(self, **changes), (Config(), PRESETS[self.preset])
        others = [
            name
            for name in changes
            if all(getattr(changed, name) != getattr(config, name) for config in usual)
        ]
        refuse_unused(changed, others)
        return changed

    def changes(self) -> dict[str, Any]:
        """Return what makes this configuration: ``GraphSCI(**changes).config`` is equal to it.

        The preset if it is not ``default``, and the fields that differ from the preset's own.
        """
        usual = {**PRESETS[self.preset].to_dict(), "preset": "default"}
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return dataclasses.asdict(self)


def option_names() -> tuple[str, ...]:
    """Names of all hyper-parameters, in order."""
    return tuple(field.name for field in fields(Config))


def later_seed(seed: int, steps: int) -> int:
    """Return the seed of another run: so many further, from 0 again after the largest."""
    return (seed + steps) % 2**32


#: Of the options that choose edges, those that a graph does not use.
_UNUSED_WITH = {"none": ("graph_threshold", "graph_top_k"), "pidc": ("graph_threshold",)}


def refuse_unused(config: Config, given: Iterable[str]) -> None:
    """Refuse options of the names ``given`` that do nothing with the graph of ``config``."""
    for name in given:
        if name in _UNUSED_WITH.get(config.graph, ()):
            raise ValueError(
                f"{name}: got {getattr(config, name)} with graph {config.graph!r}, which does not "
                "use it. Leave it out."
            )


def _refuse_unknown(names: Mapping[str, Any]) -> None:
    known = option_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
            raise ValueError(f"Unknown hyper-parameter {name!r}.{hint}")


def _checked(field: dataclasses.Field[Any], hints: Mapping[str, Any], value: Any) -> Any:
    """Return ``value`` as the field's type, or raise an error that names the field."""
    kind, choices = hints[field.name], get_args(hints[field.name])
    if isinstance(value, np.generic):
        value = value.item()
    if choices:
        if value not in choices:
            expected = " or ".join(repr(choice) for choice in choices)
            raise ValueError(f"{field.name}: got {value!r}, expected {expected}.")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{field.name}: got {value!r}, expected a value of type {kind.__name__}.")
    low, high = field.metadata["low"], field.metadata["high"]
    if kind in (int, float) and not (math.isfinite(value) and _within(value, low, high)):
        at_least = "(-inf" if low is None else f"[{low}"
        at_most = "inf)" if high is None else f"{high}]"
        raise ValueError(f"{field.name}: got {value}, expected a value in {at_least}, {at_most}.")
    return value


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


#: The published method, as settled in docs/method.md. Paper, Transparent Methods,
#: "Implementation" and Figures S5, S9 and S10.
PAPER = Config(
    preset="paper",
    graph="pearson",
    graph_threshold=0.3,
    graph_top_k=0,
    n_latent=32,
    n_hidden=16,
    dropout_rate=0.2,
    learning_rate=0.01,
    validation_fraction=0.1,
    patience=30,
)
PRESETS: Mapping[str, Config] = {"default": Config(), "paper": PAPER}


def default_in_words(name: str) -> str:
    """Return the default of a hyper-parameter, and that of each preset with another."""
    usual = getattr(PRESETS["default"], name)
    others = ((of, getattr(config, name)) for of, config in PRESETS.items() if name != "preset")
    return "; ".join([f"{usual}", *(f"{of}: {value}" for of, value in others if value != usual)])


def _fields_in_words() -> Iterator[str]:
    """Yield what is known of each field, as a docstring's section "Parameters" has it."""
    hints = get_type_hints(Config)
    for field in fields(Config):
        choices = ", ".join(map(repr, get_args(hints[field.name])))
        kind = f"{{{choices}}}" if choices else hints[field.name].__name__
        low, high = field.metadata["low"], field.metadata["high"]
        bounds = "" if low is None else f", at least {low}"
        bounds += "" if high is None else f" and at most {high}"
        yield f"    {field.name} : {kind}{bounds}, default {default_in_words(field.name)}"
        yield from textwrap.wrap(
            field.metadata["help"], 96, initial_indent=" " * 8, subsequent_indent=" " * 8
        )


#: The fields are their own documentation: ``help(graphsci.Config)`` shows what they say.
Config.__doc__ = "\n".join(
    [f"{Config.__doc__}\n", "    Parameters", "    ----------", *_fields_in_words(), "    "]
)
#: Python would show that of ``__new__``, which takes any name to refuse it.
Config.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*inspect.signature(Config.__init__).parameters.values()][1:]
)


def preset(name: str, **changes: Any) -> Config:
    """Return a preset with some fields changed.

    Parameters
    ----------
    name
        ``default`` or ``paper``.
    **changes
        Fields of :class:`Config` and their new values.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(PRESETS)}.")
    return PRESETS[name].replace(**changes)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read hyper-parameters from a TOML file of ``name = value`` lines.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not TOML, has a table or names an unknown hyper-parameter.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"config (--config): there is no file {path}. Check the path.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error
    tables = [name for name, value in values.items() if isinstance(value, dict)]
    if tables:
        raise ValueError(
            f"{path} has a table, [{tables[0]}]; hyper-parameters are lines 'name = value' in no "
            "tables. Delete the line of its name."
        )
    _refuse_unknown(values)
    return values
