"""Colours, style, and where to draw."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib
from matplotlib.colors import to_hex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Draw = TypeVar("_Draw", bound=Callable[..., Any])

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, INK = "#9A9A9A", "#222222"
GROUP_COLORS = (BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7")
#: For more groups: tab20 without its greys, the strong colours first.
MANY_GROUP_COLORS = tuple(
    to_hex(matplotlib.colormaps["tab20"](i))
    for i in (*range(0, 20, 2), *range(1, 20, 2))
    if i not in (14, 15)
)
GROUP_MARKERS = ("o", "^", "s", "D")
COLOR_MAP = "cividis"

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def styled(draw: _Draw) -> _Draw:
    """Draw in our style without leaving it behind."""

    @functools.wraps(draw)
    def drawing(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return drawing  # type: ignore[return-value]


def axes_for(ax: Axes | None, size: tuple[float, float] = (5.2, 3.8)) -> Axes:
    """Return ``ax``, or axes of a new figure."""
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def figure_for(figure: Figure | None, size: tuple[float, float]) -> Figure:
    """Return ``figure``, or a new one."""
    if figure is not None:
        return figure
    from matplotlib import pyplot as plt

    return plt.figure(figsize=size, layout="constrained")
