"""Where numbers came from: the heading of a table, built from the rows that it shows."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from suite.methods import METHODS

#: Columns that say how a row was made.
COLUMNS = ("code", "date", "versions", "machine")
#: Versions of the runs made before they were kept, from those days' headings, by environment.
EARLIER_VERSIONS = {
    "": "numpy 2.4.6, scipy 1.17.1, torch 2.13.0+cpu",
    "magic": "magic-impute 3.0.0",
    "scvi": "scvi-tools 1.4.2",
    "dca": "dca 0.3.4",
    "deepimpute": "deepimpute 1.2",
}
#: The machine of the runs made before it was kept.
EARLIER_MACHINE = "2 cores (x86_64), Python 3.11.7 (CPU model and memory not kept)"
SHARED = "one thread a method, a machine shared with other work"


def machine() -> str:
    """Name this machine: CPU, cores, memory, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_cpu_model()}, {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown CPU"


def made_by(rows: pd.DataFrame) -> str:
    """Say with what, when and where rows were measured: all commits, days, versions and seeds.

    Parameters
    ----------
    rows
        Those that a table shows, with ``method``, ``seed``, ``code`` and ``date``; ``versions``
        and ``machine`` may be missing or empty for runs from before they were kept.
    """
    rows = rows.assign(name=rows.method.str.split("@").str[0])
    kinds = rows.name.map(lambda name: METHODS[name].kind)
    seeds = joined(rows.seed.unique())
    parts = [f"seed{'s' * (', ' in seeds)} {seeds}"]
    for kind, title in (("ours", "graphsci"), ("control", "controls")):
        codes = joined(rows.code[kinds == kind].unique())
        if codes:
            parts.append(f"{title} at commit{'s' * (', ' in codes)} {codes}")
    kept = "versions" in rows and (rows.versions != "").all()
    source = "" if kept else " (where a row keeps none, those named in the tables of its day)"
    parts.append(f"versions{source}: {joined(_versions(rows))}")
    parts.append(machines(rows))
    return f"{days(rows.date)}; {'; '.join(parts)}; {SHARED}"


def days(dates: Iterable[str]) -> str:
    """Return the first and the last day."""
    found = sorted(set(dates))
    return " to ".join(dict.fromkeys([found[0], found[-1]])) if found else "-"


def machines(rows: pd.DataFrame) -> str:
    """Name the machines of rows."""
    named = rows.machine if "machine" in rows else pd.Series("", index=rows.index)
    return joined((named.replace("", EARLIER_MACHINE)).unique(), " and ")


def joined(values: Iterable[object], by: str = ", ") -> str:
    """Return values in order, empty ones left out."""
    return by.join(str(value) for value in sorted(set(values)) if value != "")  # type: ignore[type-var]


def _versions(rows: pd.DataFrame) -> set[str]:
    """Return what was kept of each environment, or what is known of it."""
    kept = rows.versions if "versions" in rows else pd.Series("", index=rows.index)
    runs = pd.DataFrame({"name": rows["name"], "kept": kept})
    found = set()
    for name, versions in runs.drop_duplicates().itertuples(index=False):
        found |= set((versions or EARLIER_VERSIONS[METHODS[name].environment]).split(", "))
    return found
