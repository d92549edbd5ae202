"""Random numbers that belong to a cell, or to a gene, and to a step of training.

A generator hands out its numbers in the order in which they are asked for, so that a number
depends on the size of the block and on who drew before. Here each number is a hash of what it is
for: the seed, the step, the row (a cell or a gene), the column, and the use. Whichever process or
device works on a cell, in whatever company, it draws the same; nothing has to be kept to go on
after a stop. The hash is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014,
doi:10.1145/2660193.2660195); counters in place of a state are the idea of Salmon et al. (SC 2011,
doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

#: 2^64 / golden ratio, made odd: steps of it spread keys evenly (SplitMix64's increment).
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
#: Raised when the same seed begins to give other numbers, so that no checkpoint mixes them.
RANDOM_NUMBERS = 4
#: What numbers are for; numbers for different uses are independent.
CELLS, GENES, PAIRS, HIDDEN_GENES = 1, 2, 3, 5
_DRAWS, _MASK, _RADIUS, _ANGLE = 11, 12, 13, 14

#: Counts below this, a power of 2, are drawn by one look-up, larger ones by one for every binary
#: digit more.
_SMALL = 32
#: Bits of a number that is looked up: those of a float64, which distribution functions are.
_TABLE_BITS = 53


def step_key(seed: int, step: int, use: int) -> int:
    """Key of all numbers for one use in one step; a whole number of 63 bits."""
    key = 0
    for part in (seed, step, use):
        key = _mix_int(key + (part + 1) * _STEP)
    return key >> 1


def row_keys(rows: np.ndarray | Tensor, key: int, device: torch.device) -> Tensor:
    """Keys of some rows, (rows,) int64: ``rows`` are the numbers of cells or genes."""
    places = torch.as_tensor(rows).to(device=device, dtype=torch.int64)
    return _mix(places * _signed(_STEP) + key)


def uniform(keys: Tensor, n_columns: int, use: int) -> Tensor:
    """Uniform numbers in [0, 1), (rows, n_columns) float32, for the ``keys`` of the rows."""
    columns = torch.arange(1, n_columns + 1, device=keys.device) * _signed(_STEP)
    hashed = _mix((keys ^ _signed(_mix_int(use)))[:, None] + columns)
    return (hashed >> 40).bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24)


def normal(keys: Tensor, n_columns: int) -> Tensor:
    """Standard normal numbers, (rows, n_columns) float32 (Box & Muller 1958)."""
    radius = (-2 * torch.log1p(-uniform(keys, n_columns, _RADIUS))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(keys, n_columns, _ANGLE))


def keep_mask(keys: Tensor, n_columns: int, dropout_rate: float) -> Tensor:
    """Dropout: 0 with probability ``dropout_rate``, else 1 / (1 - rate), (rows, n_columns)."""
    kept = uniform(keys, n_columns, _MASK) >= dropout_rate
    return kept.to(torch.float32).div_(1 - dropout_rate)


def binomial(
    counts: Tensor, probability: float, *, keys: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Binomial(counts, probability) draws by inversion, (entries,).

    Exact up to the rounding of the distribution function to float64, below 1e-12, at a cost that
    hardly grows with the counts. Distribution functions are made of whole numbers by the CPU, so
    that every device draws the same.

    Parameters
    ----------
    counts
        (entries,) whole numbers.
    keys
        (cells,) from :func:`row_keys`.
    rows, columns
        (entries,) cell, as a position in ``keys``, and gene of each entry.
    """
    of_cells = (keys ^ _signed(_mix_int(_DRAWS))).index_select(0, rows)
    hashed = _mix(of_cells.add_(columns * _signed(_STEP)))
    drawn = _shifted(hashed, 64 - _TABLE_BITS)
    table = torch.from_numpy(_small_distributions(probability)).view(-1).to(counts.device)
    size = counts.long()
    first = (size & (_SMALL - 1)).mul_(_SMALL)
    place, step = first.clone(), _SMALL
    while step := step // 2:  # binary search, all entries at once: a branch for each is slower
        below = table.index_select(0, place + (step - 1)) <= drawn
        place.add_(below, alpha=step)
    kept = place.sub_(first).to(counts.dtype)
    large = torch.nonzero(size >= _SMALL).squeeze(1)
    kept[large] += _sum_of_powers(size[large], probability, hashed[large]).to(counts.dtype)
    return kept


def _small_distributions(probability: float) -> NDArray[np.int64]:
    """Distribution functions of Binomial(n, p) of all n below ``_SMALL``, one a row.

    In units of 2^-53, of 0 to ``_SMALL`` - 1: ascending, and 2^53 from n on.
    """
    n, kept = np.tril_indices(_SMALL, -1)
    table = np.full((_SMALL, _SMALL), 1 << _TABLE_BITS)
    below = special.betainc(n - kept, kept + 1.0, 1 - probability)
    table[n, kept] = np.rint(below * 2.0**_TABLE_BITS)
    return table


def _sum_of_powers(counts: Tensor, probability: float, keys: Tensor) -> Tensor:
    """Binomial draws of all of a count but its remainder modulo ``_SMALL``, (entries,) int64.

    A count is a sum of powers of two, and so is the draw one of Binomial(2^k, p), each looked up
    by a random number of its own.
    """
    kept = torch.zeros_like(counts)
    largest = int(counts.max()) if len(counts) else 0
    for power in range(_SMALL.bit_length() - 1, largest.bit_length()):
        members = torch.nonzero(counts >> power & 1).squeeze(1)
        lowest, table = _distribution(2**power, probability)
        drawn = _shifted(_mix(keys[members] + _signed((power + 1) * _STEP)), 64 - _TABLE_BITS)
        place = torch.searchsorted(torch.from_numpy(table).to(drawn.device), drawn, right=True)
        kept[members] += lowest + place
    return kept


def _distribution(n: int, probability: float) -> tuple[int, NDArray[np.int64]]:
    """Distribution function of Binomial(n, probability) in units of 2^-53, and where it starts.

    Only where it is neither 0 nor 1 at that precision: by Bernstein's inequality the chance of a
    deviation of more than t is at most exp(-t^2 / 2 (variance + t / 3)), which is below 2^-53
    for t of 8.6 standard deviations + 25.
    """
    mean, sd = n * probability, math.sqrt(n * probability * (1 - probability))
    reach = math.ceil(8.6 * sd + 25)
    lowest, highest = max(0, math.floor(mean) - reach), min(n, math.ceil(mean) + reach)
    kept = np.arange(lowest, highest, dtype=float)
    below = special.betainc(n - kept, kept + 1, 1 - probability)
    return lowest, np.rint(below * 2.0**_TABLE_BITS).astype(np.int64)


def _mix(keys: Tensor) -> Tensor:
    """Hash 64-bit keys; overflow wraps around. ``keys`` stays as it is."""
    keys = _shifted(keys, 30).bitwise_xor_(keys).mul_(_signed(_FIRST))
    keys = _shifted(keys, 27).bitwise_xor_(keys).mul_(_signed(_SECOND))
    return _shifted(keys, 31).bitwise_xor_(keys)


def _shifted(keys: Tensor, places: int) -> Tensor:
    """Shift to the right and fill up with zeros; torch's own shift keeps the sign."""
    return (keys >> places).bitwise_and_(2 ** (64 - places) - 1)


def _mix_int(key: int) -> int:
    """Do the same for one unsigned number."""
    key &= 2**64 - 1
    key = ((key ^ (key >> 30)) * _FIRST) & (2**64 - 1)
    key = ((key ^ (key >> 27)) * _SECOND) & (2**64 - 1)
    return key ^ (key >> 31)


def _signed(key: int) -> int:
    """Read the last 64 bits as torch's int64 does."""
    key &= 2**64 - 1
    return key - 2**64 if key >= 2**63 else key
