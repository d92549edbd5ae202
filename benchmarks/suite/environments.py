"""Each peer in a virtual environment of its own, so that nobody's pins break ours."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

BENCHMARKS = Path(__file__).resolve().parents[1]
PEERS = BENCHMARKS / "peers"
ENVIRONMENTS = BENCHMARKS / ".envs"
#: Packages named beside the numbers that they decide, by environment; "" is our own.
NAMED = {
    "": ("numpy", "scipy", "torch"),
    "magic": ("magic-impute",),
    "scvi": ("scvi-tools", "torch"),
    "dca": ("dca", "tensorflow-cpu"),
    "deepimpute": ("deepimpute", "tensorflow-cpu"),
}
#: Packages of our own environment that decide the numbers of what runs in it.
OWN = ("numpy", "scipy", "scikit-learn", "anndata", "numba", "torch")


class Environment(NamedTuple):
    """How a peer is installed: pip's arguments, one call each, in order."""

    steps: tuple[tuple[str, ...], ...]
    #: lowest and highest Python that they exist for
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 9), (3, 99))


#: The newest TensorFlow that still has the Keras 2 that DCA and DeepImpute are written for.
_TENSORFLOW_PYTHONS = (3, 9), (3, 11)
_TENSORFLOW = ("tensorflow-cpu==2.15.*", "numpy<2", "anndata<0.12", "scikit-learn", "pandas<3")
PEER_ENVIRONMENTS = {
    "magic": Environment((("magic-impute", "anndata"),)),
    "scvi": Environment((("torch==2.13.0",), ("scvi-tools",))),
    "dca": Environment(
        (
            (*_TENSORFLOW, "scanpy<1.11", "six", "setuptools<80"),
            ("--no-deps", "dca==0.3.4"),  # its pins exclude every TensorFlow for Python 3.11
        ),
        _TENSORFLOW_PYTHONS,
    ),
    "deepimpute": Environment((_TENSORFLOW, ("--no-deps", "deepimpute==1.2")), _TENSORFLOW_PYTHONS),
}


def interpreter(environment: str) -> Path:
    """Return the Python of an environment; the one of this program for ""."""
    return ENVIRONMENTS / environment / "bin" / "python" if environment else Path(sys.executable)


def installed(environment: str) -> bool:
    """Whether an environment is complete; that of this program always is."""
    return not environment or _freeze(environment).is_file()


def install(environment: str) -> None:
    """Make an environment and fill it; its list of versions is written when all went well."""
    refuse_other_pythons(environment)
    folder, log = ENVIRONMENTS / environment, ENVIRONMENTS / f"{environment}.log"
    ENVIRONMENTS.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(interpreter(environment)), "-m", "pip"]
    with log.open("w") as file:
        for packages in PEER_ENVIRONMENTS[environment].steps:
            if subprocess.run([*pip, "install", *packages], stdout=file, stderr=file).returncode:
                errors = [line for line in log.read_text().splitlines() if "rror" in line]
                sys.exit(
                    f"{environment}: {' '.join(packages)} did not install; see {log}\n"
                    + "\n".join(errors[-5:])
                )
    found = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    _freeze(environment).write_text(found)
    print(f"{environment}: installed in {folder}")


def refuse_other_pythons(environment: str) -> None:
    """Stop before any work where an environment's packages have no release for this Python."""
    lowest, highest = PEER_ENVIRONMENTS[environment].pythons
    here = sys.version_info[:2]
    if not lowest <= here <= highest:
        named = [".".join(map(str, version)) for version in (here, lowest, highest)]
        sys.exit(
            f"{environment}: this is Python {named[0]}, its packages need {named[1]} to "
            f"{named[2]}; run the install with one of them, for example "
            f"`python{named[2]} benchmarks/run.py install {environment}`."
        )


def versions(environment: str) -> dict[str, str]:
    """Return name and version of every package of an environment that decides numbers."""
    if not environment:
        from importlib.metadata import version

        return {name: version(name) for name in OWN}
    lines = _freeze(environment).read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def named_versions(environment: str) -> str:
    """Return the packages that decide an environment's numbers most, with their versions."""
    found = {name.lower(): version for name, version in versions(environment).items()}
    return ", ".join(f"{name} {found[name]}" for name in NAMED[environment] if name in found)


def digest(data: bytes) -> str:
    """Return a short digest of bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def source_of(*modules: ModuleType) -> str:
    """Return a digest of the whole files of modules, constants and helpers included."""
    return digest(b"".join(Path(str(module.__file__)).read_bytes() for module in modules))


def _freeze(environment: str) -> Path:
    return ENVIRONMENTS / f"{environment}.freeze"
