"""What is compared: ours, controls, peers; and what decides each one's numbers."""

import ast
import json
from pathlib import Path
from typing import Literal, NamedTuple

from suite import environments
from suite.environments import BENCHMARKS, PEERS, digest

Kind = Literal["ours", "control", "peer"]


class Method(NamedTuple):
    """A script of ``peers/``, the environment it runs in, and its variant."""

    script: str
    environment: str  #: "" is the one that runs this program
    variant: str = ""
    note: str = ""
    kind: Kind = "peer"


_OURS_NOTE = "our implementation of the published algorithm"
METHODS = {
    "graphsci": Method("run_graphsci.py", "", "default", "", "ours"),
    "graphsci-mean": Method("run_graphsci.py", "", "default/mean", "the estimate `mean`", "ours"),
    "graphsci-paper": Method("run_graphsci.py", "", "paper", "the published equations", "ours"),
    "nothing": Method("run_control.py", "", "nothing", "control", "control"),
    "gene_mean": Method("run_control.py", "", "gene_mean", "control", "control"),
    "gene_mean_posterior": Method(
        "run_control.py", "", "gene_mean_posterior", "control", "control"
    ),
    "neighbour_pooling": Method("run_control.py", "", "neighbour_pooling", "control", "control"),
    "neighbour_pooling_posterior": Method(
        "run_control.py", "", "neighbour_pooling_posterior", "control", "control"
    ),
    "magic-sqrt": Method("run_magic.py", "magic", "sqrt", "magic-impute"),
    "magic-log": Method("run_magic.py", "magic", "log", "magic-impute"),
    "alra": Method("run_alra.py", "", note=_OURS_NOTE),
    "knn-smoothing": Method("run_knn_smoothing.py", "", "15", f"{_OURS_NOTE}, k = 15"),
    "saver": Method("run_saver.py", "", note=f"{_OURS_NOTE}, predictors screened"),
    "scimpute": Method("run_scimpute.py", "", note=_OURS_NOTE),
    "dca-nb": Method("run_dca.py", "dca", "nb-conddisp", "dca 0.3.4 on TensorFlow 2.15"),
    "dca-zinb": Method("run_dca.py", "dca", "zinb-conddisp", "dca 0.3.4 on TensorFlow 2.15"),
    "deepimpute": Method("run_deepimpute.py", "deepimpute", "restore", "deepimpute 1.2"),
    "deepimpute-predicted": Method(
        "run_deepimpute.py", "deepimpute", "predicted", "deepimpute 1.2, no counts restored"
    ),
    "scvi-nb": Method("run_scvi.py", "scvi", "nb", "scvi-tools"),
    "scvi-zinb": Method("run_scvi.py", "scvi", "zinb", "scvi-tools"),
}

OURS, OURS_MEAN = "graphsci", "graphsci-mean"


def is_control(method: str) -> bool:
    """Whether a row, a variant or not, is a control's."""
    return METHODS[method.split("@")[0]].kind == "control"


def is_peer(method: str) -> bool:
    """Whether a row is a peer's own; a variant of its estimate is none."""
    return method in METHODS and METHODS[method].kind == "peer"


#: Modules and folders of the package that cannot change an estimate.
_NO_NUMBERS = (
    *("cli", "_cli_", "report", "pl", "_network_plots", "demo", "__main__", "_job", "_info"),
    *("_cli", "_jobs"),
    *("files", "layers"),
    *("evaluation", "network", "_evaluate_report", "simulation", "_splat_params"),
    *("edge_scores", "shuffled_genes"),
)
#: What a control is computed by: modules (older checkouts have not all), and
#: functions of a module that does much else.
_OF_CONTROLS = (
    "evaluation/controls.py",
    "evaluation/_blocks.py",
    "simple_methods.py",
    "predictions.py",
)
_FUNCTIONS_OF_CONTROLS = ("fit_median_library_size", "log_normalize", "library_sizes")


def decisive(method: Method, source: Path) -> dict[str, object]:
    """Return everything but data and seed that decides a method's numbers.

    A peer's numbers do not change with our source, ours and the controls' do not change with a
    peer's environment.
    """
    scripts = [PEERS / "contract.py", PEERS / method.script]
    found: dict[str, object] = {
        "script": method.script,
        "variant": method.variant,
        "scripts": [digest(path.read_bytes()) for path in scripts],
        "versions": digest(json.dumps(environments.versions(method.environment)).encode()),
    }
    if method.kind != "peer":
        found["source"] = source_digest(method.kind, source)
    return found


def source_digest(kind: Kind, source: Path) -> str:
    """Return a digest of the package's modules that decide numbers of that kind."""
    package = source / "src" / "graphsci"
    if kind == "control":
        found = [package / name for name in _OF_CONTROLS]
        texts = [path.read_text() for path in found if path.exists()]
        texts += _functions(_normalization(package), _FUNCTIONS_OF_CONTROLS)
    else:
        found = sorted(package.rglob("*.py"))
        texts = [path.read_text() for path in found if _decides(path.relative_to(package))]
    return digest("".join(texts).encode())


def _normalization(package: Path) -> Path:
    """Return the module of log-normalisation; older checkouts have it in another."""
    path = package / "preprocessing" / "normalization.py"
    return path if path.exists() else package / "preprocessing.py"


def _functions(path: Path, names: tuple[str, ...]) -> list[str]:
    """Return the source of some functions of a module."""
    text = path.read_text(encoding="utf-8")
    found = {
        node.name: ast.get_source_segment(text, node) or ""
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    return [found[name] for name in names]


def _decides(path: Path) -> bool:
    return path.parts[0] not in _NO_NUMBERS and not path.name.startswith(_NO_NUMBERS)


#: The checkout whose source runs unless another is named.
HERE = BENCHMARKS.parent
