"""Pictures of a training and of its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from graphsci._keys import DEFAULT_KEY
from graphsci.pl._scale import run_record
from graphsci.pl._style import BLUE, GREY, RED, axes_for, styled
from graphsci.verdict import NO_VERDICT

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from graphsci.imputer import GraphSCI
    from graphsci.verdict import Verdict

#: From so many epochs on the training loss is smoothed, over so many of them.
_MANY_EPOCHS, _SMOOTHED_OVER = 20, 5


@styled
def training_curve(model: GraphSCI | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Losses by epoch, with the epoch whose weights were kept.

    Parameters
    ----------
    model
        A trained model, or its ``history``.
    ax
        Where to draw; a new figure if None.

    Notes
    -----
    The two losses are of different molecules, training and withheld ones, so each has its own
    axis: compare their courses, not their heights. With the preset ``default`` the training
    loss is jagged because the share of the molecules that is scored is another in each step;
    from twenty epochs on its mean over five is drawn, and the epochs themselves faintly.
    """
    if not isinstance(model, pd.DataFrame) and not hasattr(model, "history"):
        raise TypeError(
            f"got a {type(model).__name__}, expected a trained GraphSCI or its history, as the "
            "losses are kept there alone: model = graphsci.GraphSCI().fit(adata), or "
            "graphsci.GraphSCI.load(path)."
        )
    history = model if isinstance(model, pd.DataFrame) else model.history
    if history.empty:
        raise ValueError("the history has no epochs: nothing was trained, so nothing to draw.")
    ax = axes_for(ax)
    epochs = history["epoch"]
    training, label = history["training_loss"], "training"
    if len(history) >= _MANY_EPOCHS:
        ax.plot(epochs, training, color=GREY, linewidth=0.8, alpha=0.3)
        training = training.rolling(_SMOOTHED_OVER, center=True, min_periods=1).mean()
        label = f"training, mean of {_SMOOTHED_OVER} epochs"
    ax.plot(epochs, training, color=GREY, linewidth=1.5, label=label)
    ax.set(xlabel="epoch", ylabel="training loss (nats per cell)", title="Training")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = ax.get_lines()[-1:]
    if history["validation_loss"].notna().any():
        twin = ax.twinx()
        twin.spines["right"].set_visible(True)
        lowest = int(history["validation_loss"].argmin())
        best = history.iloc[lowest if model is history else model.fitted.best_epoch - 1]
        twin.plot(epochs, history["validation_loss"], color=BLUE, label="withheld molecules")
        twin.plot(
            best["epoch"],
            best["validation_loss"],
            "o",
            color=RED,
            label=f"kept: epoch {best['epoch']:.0f}",
        )
        twin.set_ylabel("validation loss (nats per cell)", color=BLUE)
        twin.tick_params(axis="y", colors=BLUE)
        handles = [*handles, *twin.get_lines()]
    ax.legend(handles=handles, loc="upper right")
    return ax


@styled
def verdict(
    result: AnnData | GraphSCI | Verdict | Mapping[str, Any],
    *,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Deviance of held-out molecules, ours against the simple methods; shorter is better.

    Parameters
    ----------
    result
        Anything that carries a verdict: an imputed AnnData, a model, the verdict itself or
        its dictionary.
    key
        Name of the run in an AnnData.
    ax
        Where to draw; a new figure if None.
    """
    record = _verdict_record(result, key)
    if not record:
        raise ValueError(f"there is no verdict to draw. {NO_VERDICT}")
    scores = sorted(record["scores"].items(), key=lambda item: -item[1]["deviance"])
    names, values = [name for name, _ in scores], [score["deviance"] for _, score in scores]
    colors = [BLUE if name.startswith("graphsci") else "#BDBDBD" for name in names]
    ax = axes_for(ax, (6.2, 2.6))
    bars = ax.barh(names, values, color=colors)
    ax.bar_label(bars, fmt=" %.4f", padding=2)
    ax.set_xlim(0, 1.18 * max(values))
    ax.set_xlabel("held-out Poisson deviance per entry (lower is better)")
    ax.set_title(record["headline"].split(": ")[0] + ".")
    return ax


def _verdict_record(result: Any, key: str) -> Mapping[str, Any]:
    if isinstance(result, Mapping):
        return result
    if hasattr(result, "uns"):
        return run_record(result, key).get("verdict", {})
    found = result if hasattr(result, "scores") else result.verdict
    return {} if found is None else found.to_dict()
