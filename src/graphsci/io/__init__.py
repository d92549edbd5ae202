"""Read count matrices; write an AnnData.

Reading never guesses: the format follows from the file's name and is checked against its
content, and a text table must come with its orientation.

The modules are ``_reading`` (:func:`read_counts`: which reader), ``_anndata``, ``_tenx``, ``_loom``
and ``_tables`` (the readers, and the writer of AnnData), over ``_source`` (what they share) and
``_hdf5`` (what a file of another format looks like), and ``_memory``. ``sources`` are counts that
are read in rows of cells; ``files``, ``layers`` and ``streams`` write whole outputs, or none.
"""

from typing import TYPE_CHECKING

from graphsci._lazy import lazy_names

if TYPE_CHECKING:
    from graphsci.io._anndata import write_anndata, written_as_is
    from graphsci.io._memory import available_memory, refuse_more_than_memory, size_in_memory
    from graphsci.io._reading import read_counts
    from graphsci.io._source import FileFormatError, GenesIn
    from graphsci.io._tables import TABLE_SUFFIXES
    from graphsci.io.files import ANNDATA_SUFFIXES

__all__ = [
    "ANNDATA_SUFFIXES",
    "TABLE_SUFFIXES",
    "FileFormatError",
    "GenesIn",
    "available_memory",
    "read_counts",
    "refuse_more_than_memory",
    "size_in_memory",
    "write_anndata",
    "written_as_is",
]

_HOMES = {
    "ANNDATA_SUFFIXES": "files",
    "write_anndata": "_anndata",
    "written_as_is": "_anndata",
    "available_memory": "_memory",
    "refuse_more_than_memory": "_memory",
    "size_in_memory": "_memory",
    "read_counts": "_reading",
    "FileFormatError": "_source",
    "GenesIn": "_source",
    "TABLE_SUFFIXES": "_tables",
}
__getattr__ = lazy_names(__name__, modules=(), homes=_HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
