"""Files that are written whole or not at all.

Writing goes to a temporary sibling that takes its place only when complete, so that an
interrupted run leaves the old file or none.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

ANNDATA_SUFFIXES = (".h5ad", ".zarr")
_unfinished: set[Path] = set()  # temporary files and folders of this process
_TRIES = 20  # to remove them before it ends
_MOST_FLUSHED = 64  # files of a folder that are waited for
#: What the system says where no room is left: a full disk, a quota, the largest file allowed.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


class NoRoom(OSError):
    """There was no room to write something."""

    def __init__(self, number: int, target: Path) -> None:
        said = f"no room to write {target} ({os.strerror(number)})."
        super().__init__(number, f"{said} Free space, or write less, or to another disk.")
        self.target = target

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[NoRoom], tuple[int | None, Path]]:
        return NoRoom, (self.errno, self.target)  # processes of a job tell each other


def check_writable(
    path: str | os.PathLike[str],
    *,
    suffixes: Sequence[str] | None = None,
    overwrite: bool = True,
    folder: bool = False,
) -> Path:
    """Make sure, before any long work, that ``path`` can be written.

    Parameters
    ----------
    path
        File to write, or ``.zarr`` folder.
    suffixes
        Endings allowed, e.g. ``(".h5ad", ".zarr")``; any if None.
    overwrite
        Whether ``path`` may exist.
    folder
        Whether it will be a folder, as models are; a ``.zarr`` always is one.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    ValueError
        The ending is not allowed.
    FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError
        There is no folder to write to, or something there must not be replaced.
    OSError
        Its folder takes no new file: the system's own error, :class:`NoRoom` if there is none.
    """
    path = Path(path)
    if suffixes is not None and not path.name.lower().endswith(tuple(suffixes)):
        raise ValueError(
            f"{path} ends in {path.suffix!r}, expected {' or '.join(suffixes)}. Rename the output."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {path.parent} does not exist, so {path.name} cannot be written there. "
            f"Create it: mkdir -p {path.parent}"
        )
    _try_to_write(path.resolve() if path.is_symlink() else path)
    if path.exists():
        _check_replaceable(path, overwrite, folder=folder or path.name.lower().endswith(".zarr"))
    return path


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Make sure, before any long work, that a folder can be filled; it is made if missing.

    Raises
    ------
    NotADirectoryError, OSError
        A file stands there, or no new file can be made there.
    """
    path = Path(path)
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, expected a folder. Choose another output.")
    _try_to_write(there / path.name)
    return path


def _try_to_write(target: Path) -> None:
    """Make an empty file beside ``target``, and remove it.

    Permission bits say too little: nothing of root's rights, of mounts, of long names.
    """
    trial = _beside(target, "tmp")
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        if (number := _no_room(error)) is not None:
            raise NoRoom(number, target) from error
        raise type(error)(
            f"the folder {target.parent} takes no file to become {target.name} "
            f"({error.strerror}). Choose another output."
        ) from error
    trial.unlink()


def _check_replaceable(path: Path, overwrite: bool, *, folder: bool) -> None:
    if folder and not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file, and a folder will be written: it is not replaced. Choose another "
            "output, or remove the file yourself."
        )
    if path.is_dir() and not any(path.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists. Choose another output, or allow overwriting: overwrite=True "
            "(command line: --overwrite)."
        )
    if path.is_dir() and not (is_zarr(path) or _is_model(path)):
        raise IsADirectoryError(
            f"{path} is a folder with more than a zarr store or a model, and will not be replaced. "
            "Choose another output, or remove the folder yourself."
        )


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store, of any format."""
    return any((path / mark).exists() for mark in _ZARR_MARKS)


def is_store(path: Path) -> bool:
    """Whether a path is a zarr store, by its name (one to be written) or by what is there."""
    return path.name.lower().endswith(".zarr") or is_zarr(path)


def _is_model(path: Path) -> bool:
    """Whether a folder holds a saved model and nothing else, so that nothing else is lost."""
    return {entry.name for entry in path.iterdir()} == {"model.json", "model.safetensors"}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place on success.

    On an error (or Ctrl-C) the temporary file or folder is deleted and what was at ``path``
    stays as it was. What a process of this machine left beside ``path`` when it was killed is
    removed before.

    Parameters
    ----------
    path
        Final file or folder. The temporary one has the same endings.

    Raises
    ------
    FileNotFoundError
        The block ended without writing to the temporary path; or see :func:`check_writable`.
    NoRoom
        The disk is full, or a quota or limit is reached.
    """
    target = check_writable(path)
    if target.is_symlink():
        target = target.resolve()
    _remove_left(target)
    temporary = _beside(target, "tmp")
    _unfinished.add(temporary)
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(
                f"nothing was written to {temporary}, the path that becomes {target}. "
                "Write to the path that atomic_path yields."
            )
        _unfinished.discard(temporary)  # it is finished: from here on it is not to be lost
        _flush(temporary)
        _move(temporary, target)
        _flush_folder(target.parent)
    except (OSError, RuntimeError) as error:
        number = _no_room(error)
        if number is None:
            raise
        told = error.target if isinstance(error, NoRoom) else getattr(error, "filename", None)
        if told is None or temporary.name in str(told):
            told = target  # else another folder is full
        raise NoRoom(number, Path(told)) from error
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


def _no_room(error: Exception) -> int | None:
    """Return the number by which the system said so; HDF5 may have it in its text alone."""
    told = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None) or (int(told[1]) if told else None)
    return number if number in _NO_ROOM else None


def _beside(target: Path, kind: Literal["tmp", "old"]) -> Path:
    """Return a new name in the folder of ``target`` that says whose it is."""
    return target.with_name(
        f".{kind}-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}-{target.name}"
    )


@functools.cache
def _machine() -> str:
    """Eight digits that tell where process ids mean something: machine, since when, container."""
    where = platform.node()
    with suppress(OSError):  # Linux alone has them; machines may share a name
        where += os.readlink("/proc/self/ns/pid")
        where += Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    return hashlib.sha256(where.encode()).hexdigest()[:8]


def _remove_left(target: Path) -> None:
    """Remove what processes of this machine that are gone left beside ``target``.

    An old folder of which there is no new one comes back.
    """
    name = re.compile(
        rf"\.(tmp|old)-{_machine()}-(\d{{1,9}})-[0-9a-f]{{8}}-"
        rf"(\.tmp-[0-9a-f]{{8}}-\d+-[0-9a-f]{{8}}-)*{re.escape(target.name)}"
    )
    beside: list[Path] = []
    with suppress(OSError):  # a folder may be closed to reading
        beside += target.parent.iterdir()
    for path in beside:
        found = name.fullmatch(path.name)
        if found is None or _lives(int(found[2])):
            continue
        with suppress(OSError):  # another process removes it too, or it is another user's
            if found[1] == "old" and not target.exists():
                os.replace(path, target)
            else:
                _remove(path)


def _lives(process: int) -> bool:
    """Whether there is a process of this number, as far as this system can tell."""
    if sys.platform == "win32":  # has no signal that does nothing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def remove_unfinished() -> None:
    """Remove what :func:`atomic_path` has not finished, because this process is about to end."""
    for _ in range(_TRIES):
        for temporary in filter(Path.exists, _unfinished):
            with suppress(OSError):
                _remove(temporary)
        time.sleep(0.1)  # zarr's threads write what they have begun
        if not any(map(Path.exists, _unfinished)):
            return


def _flush(path: Path) -> None:
    """Have what was written reach the disk, so that no power failure leaves an empty file.

    Stores of more than :data:`_MOST_FLUSHED` files are left to the system: they are written
    again from a model, and so many waits would take longer than writing them.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if len(files) > _MOST_FLUSHED:
        return
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """The same for the names in a folder, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move(source: Path, target: Path) -> None:
    """Put ``source`` in the place of ``target``; folders need an intermediate step.

    A process that is killed between the two renames leaves the old folder beside, as ``.old-*``,
    which the next :func:`atomic_path` brings back.
    """
    if not target.is_dir():
        os.replace(source, target)
        return
    old = _beside(target, "old")
    os.replace(target, old)
    try:
        os.replace(source, target)
    except BaseException:  # Ctrl-C too: the old one comes back
        os.replace(old, target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON, whole or not at all; ``obj`` and errors as for :func:`json_text`."""
    write_text(path, json_text(obj))


def json_text(obj: Any) -> str:
    """Return ``obj`` as JSON that every reader takes.

    Parameters
    ----------
    obj
        Built from dicts, sequences, strings, numbers, None, numpy scalars and arrays,
        dataclasses, named tuples (written as objects) and paths.

    Raises
    ------
    ValueError
        A number is NaN or infinite, which JSON cannot hold; the message says where.
    TypeError
        Something else that JSON cannot hold.
    """
    plain = _to_json(obj, "the object")
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _to_json(obj: Any, where: str) -> Any:
    """Return ``obj`` in terms of JSON's own types."""
    if isinstance(obj, np.ndarray | np.generic):
        obj = obj.tolist()
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        obj = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
    if isinstance(obj, tuple) and hasattr(obj, "_asdict"):
        obj = obj._asdict()
    if isinstance(obj, Mapping):
        return {str(key): _to_json(value, f"{where}[{key!r}]") for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_to_json(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    return _to_json_scalar(obj, where)


def _to_json_scalar(obj: Any, where: str) -> Any:
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if not isinstance(obj, float):
        raise TypeError(
            f"{where} is a {type(obj).__name__}, expected what JSON can hold (dict, list, str, "
            "number, bool, None). Convert it first."
        )
    if not math.isfinite(obj):
        raise ValueError(
            f"{where} is {obj}, expected a finite number: JSON has no NaN or infinity. "
            "Use None for a value that is not known."
        )
    return obj
