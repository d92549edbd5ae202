"""The state of a long training on disk, so that a run that was killed goes on where it was.

One safetensors file, its JSON in the header, so that it is replaced in one step: there is always
a whole checkpoint or none. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphsci._choices import CHECKPOINT_MINUTES
from graphsci.io.files import atomic_path
from graphsci.training.loop import TrainingState

#: Raised whenever the layout of the file changes.
SCHEMA_VERSION = 8


class Checkpoint:
    """A file that keeps the state of training.

    A run that finds the file goes on from it, and ends with the same bits as a run that was
    never stopped. The file of another run (other counts, settings or versions) is refused. It
    stays until :meth:`remove`, so that it outlives whatever fails after training.

    Parameters
    ----------
    path
        The file; written with the first epoch that ends ``minutes`` after the start.
    minutes
        Time between two writings; 0 writes after every epoch.

    Examples
    --------
    >>> checkpoint = graphsci.Checkpoint("run.checkpoint")  # doctest: +SKIP
    >>> model.fit(adata, checkpoint=checkpoint).save("model")  # doctest: +SKIP
    >>> checkpoint.remove()  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, minutes: float = CHECKPOINT_MINUTES) -> None:
        if not minutes >= 0:
            raise ValueError(f"minutes: got {minutes}, expected 0 or more.")
        self.path, self.minutes = Path(path), minutes
        self.identity: dict[str, Any] = {}
        self._written = time.monotonic()

    def expect(self, **identity: Any) -> None:
        """Say what the run is about; refuse the file if it is about something else.

        Parameters
        ----------
        **identity
            Plain values by what they are called in messages (``_`` for a space).

        Raises
        ------
        ValueError
            If the file belongs to another run, or is damaged; the message says what differs.
        """
        self.identity |= identity
        if not self.path.exists():
            return
        found = self._header()["identity"]
        for name, value in identity.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.path} is the checkpoint of another run: other {name.replace('_', ' ')}"
                    f"{_difference(found.get(name), value)}. Repeat that run to go on with "
                    "it, remove the file to start anew, or name another one (--checkpoint)."
                )

    def found(self) -> str | None:
        """One line on what there is to go on from; None if nothing."""
        if not self.path.exists():
            return None
        n_epochs = self._header()["n_epochs"]
        return f"going on after epoch {n_epochs}, from the checkpoint {self.path}"

    def restore(self, state: TrainingState) -> None:
        """Bring ``state`` to where the file left off; leave it alone without a file."""
        self._written = time.monotonic()
        if not self.path.exists():
            return
        header = self._header()
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state.load_state_dict(unpack(header["state"], tensors))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(self._damaged(error)) from error

    def offer(self, state: TrainingState) -> None:
        """Write ``state`` if the last writing was long enough ago."""
        if time.monotonic() - self._written >= 60 * self.minutes:
            self.write(state)

    def write(self, state: TrainingState) -> None:
        """Write ``state``, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        header = {
            "schema_version": SCHEMA_VERSION,
            "identity": self.identity,
            "n_epochs": len(state.history),
            "state": pack(state.state_dict(), tensors),
        }
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, metadata={"graphsci": json.dumps(header)})
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file, if there is one: the run is over."""
        self.path.unlink(missing_ok=True)

    def _header(self) -> dict[str, Any]:
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                header: dict[str, Any] = json.loads(file.metadata()["graphsci"])
                version = header["schema_version"]
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise ValueError(self._damaged(error)) from error
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} has checkpoint schema {version}, this graphsci reads "
                f"{SCHEMA_VERSION}. Finish the run with the graphsci that began it, or remove the "
                "file to start anew."
            )
        return header

    def _damaged(self, error: Exception) -> str:
        return (
            f"{self.path} is no whole checkpoint ({error}). Remove it to start anew, or name "
            "another file (--checkpoint)."
        )


def _difference(found: Any, wanted: Any) -> str:
    """Say what differs, where it can be said in a few words."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        names = [name for name in wanted if found.get(name) != wanted[name]]
        said = [f"{name} was {found.get(name)!r}, is {wanted[name]!r}" for name in names[:5]]
        return f" ({'; '.join(said)})"
    if isinstance(wanted, int | float) or (isinstance(wanted, str) and len(wanted) < 30):
        return f" (was {found}, is {wanted})"
    return ""


def digest(parts: Iterable[np.ndarray]) -> str:
    """Hash arrays with their shapes and types, 128 bits as text; names are hashed as UTF-8."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if part.dtype.kind in "UO":  # width and byte order of text are the machine's
            part = np.frombuffer("\0".join(part.tolist()).encode(), dtype=np.uint8)
        total.update(f"{part.dtype.str}{part.shape}".encode())
        total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()


# --- nested values <-> JSON and named tensors -------------------------------------------


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn nested dicts, lists, tensors and plain values into what JSON can hold.

    Tensors are put into ``tensors`` under a number and referred to by it; every container says
    what it was, so that :func:`unpack` gives back the same types.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # no two share memory
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo :func:`pack`."""
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "tensor":
        return tensors[items]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in items}
    if kind == "float":
        return float(items)
    return {"list": list, "tuple": tuple}[kind](unpack(item, tensors) for item in items)
