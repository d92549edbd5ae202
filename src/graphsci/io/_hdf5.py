"""HDF5 files: what they look like, and how they are written where the disk may be full."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py

#: After a failure: bytes of a page that is kept in memory, of the largest write that is kept (what
#: HDF5 reads again is small, values are not), and most pages.
_PAGE, _LARGEST, _MOST_PAGES = 2**12, 2**18, 2**16


def content_hint(file: h5py.File) -> str:
    """Say what an HDF5 file looks like."""
    if "row_attrs" in file and "col_attrs" in file:
        return " It looks like a loom file: rename it to .loom."
    if "obs" in file and "var" in file:
        return " It looks like an AnnData file: rename it to .h5ad."
    if matrix_groups(file):
        return " It looks like a 10x file: rename it to .h5."
    return " Check where the file comes from."


def matrix_groups(file: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix."""
    return [
        name for name, item in file.items() if isinstance(item, h5py.Group) and "barcodes" in item
    ]


class HDF5File(h5py.File):
    """A file to write to, made by :func:`open_hdf5`."""

    def __init__(self, disk: _Disk, mode: Literal["r+", "w"]) -> None:
        super().__init__(disk, mode)
        self._disk = disk

    def check(self) -> None:
        """Raise what the system said, if something could not be written."""
        if self._disk.failure is not None:
            raise self._disk.failure


@contextmanager
def open_hdf5(path: str | os.PathLike[str], mode: Literal["r+", "w"]) -> Iterator[HDF5File]:
    """Open an HDF5 file to write to it; a full disk is then an error and no crash.

    The file must not be open twice at a time. In long work, call its ``check`` now and then.

    Raises
    ------
    OSError
        What the system said of the first write that failed.
    """
    disk = _Disk(Path(path), mode)
    try:
        with HDF5File(disk, mode) as file:
            yield file
    except BaseException:
        if disk.failure is None:
            raise
    finally:
        disk.close()
    if disk.failure is not None:
        raise disk.failure


class _Disk(io.RawIOBase):
    """A file under HDF5 that never fails.

    HDF5 crashes the interpreter at its end where it cannot write what it still holds. So it is
    not told of a failure: from then on nothing is written, and small pieces are kept in memory,
    as it reads them again. The file is then of no use.
    """

    def __init__(self, path: Path, mode: Literal["r+", "w"]) -> None:
        self._file = path.open("wb+" if mode == "w" else "rb+", buffering=0)
        self._at, self._size = 0, path.stat().st_size
        self._pages: dict[int, bytearray] = {}  # by number, since the failure
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._at)
        n_read = 0
        while n_read < len(view) and (n := self._file.readinto(view[n_read:])):
            n_read += n
        for page, place in _pages(self._at, len(view)):
            if page in self._pages:
                start = self._at + place.start - page * _PAGE
                view[place] = self._pages[page][start : start + place.stop - place.start]
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with self._noting_failure():
            self._write(view)
        if self.failure is not None and len(view) <= _LARGEST:
            self._keep(view)
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        with self._noting_failure():
            if self.failure is None:
                self._file.truncate(size)
        self._size = size
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # Ctrl-C too
            self.failure = self.failure or error

    def _write(self, view: memoryview) -> None:
        if self.failure is not None:
            return
        self._file.seek(self._at)
        n_written = 0
        while n_written < len(view):
            n_written += self._file.write(view[n_written:])

    def _keep(self, view: memoryview) -> None:
        for page, place in _pages(self._at, len(view)):
            if page not in self._pages:
                if len(self._pages) == _MOST_PAGES:
                    return
                self._file.seek(page * _PAGE)
                self._pages[page] = bytearray(self._file.read(_PAGE).ljust(_PAGE, b"\0"))
            start = self._at + place.start - page * _PAGE
            self._pages[page][start : start + place.stop - place.start] = view[place]


def _pages(at: int, length: int) -> Iterator[tuple[int, slice]]:
    """Yield the pages that ``length`` bytes from ``at`` touch, and which of the bytes each has."""
    for page in range(at // _PAGE, -(-(at + length) // _PAGE)):
        yield page, slice(max(0, page * _PAGE - at), min(length, (page + 1) * _PAGE - at))
