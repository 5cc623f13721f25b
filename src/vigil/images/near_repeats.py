"""Groups of images that show the same thing: near-repeats by perceptual hash, and two views of one bag.

Measured on 140 negatives and 160 positives of SIXray. The 9,693 pairs of negatives without neighbouring numbers, that
is of different bags, differ in 120.7 +- 9.2 of the 256 bits, and none in fewer than 72: `MAX_DISTANCE` lies 6.2
standard deviations below. Of 64 pairs of positives that show one suitcase to the eye, 32 are found directly and 46
through the pictures between them. The 8x8 difference hash that was here before joined different bags from 5 bits on,
and found 4 of the 64 below that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.progress import track

WORDS = 4
"""64-bit words of a hash, of coarse to fine detail."""
MAX_DISTANCE = 64
"""Bits of 256 in which the hashes of two pictures of one bag may differ."""
MAX_COARSE_DISTANCE = 8
"""Bits of the first 64, those of the coarsest detail, in which they may differ."""
_SIDE = 64
_BLOCKS = 12  # of the first word; two words that differ in 8 bits agree in at least 4 of 12 blocks
_PAIRS_AT_ONCE = 1 << 20
_ALL_PAIRS_UP_TO = 4096
_TABLES_TRIED = 9

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Squares = npt.NDArray[np.uint8]


def _cosines() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The discrete cosine transform's rows in integers, and the (row, column) of the hash's coefficients."""
    count = 64 * WORDS
    down, across = np.mgrid[:_SIDE, :_SIDE]
    order = np.lexsort((across.ravel(), (down + across).ravel()))[1 : count + 1]  # by frequency, without the mean
    rows, columns = order // _SIDE, order % _SIDE
    frequencies, places = np.mgrid[: max(rows.max(), columns.max()) + 1, :_SIDE]
    transform = np.cos(np.pi * frequencies * (2 * places + 1) / (2 * _SIDE))
    return np.rint(transform * 4096).astype(np.int64), rows.astype(np.int64), columns.astype(np.int64)


_TRANSFORM, _ROWS, _COLUMNS = _cosines()


def perceptual_hash(image: Image.Image) -> Hashes:
    """The signs of the 256 lowest frequencies of an image, uint64 [4]; equal on every machine.

    Of the discrete cosine transform of the grey image at 64x64, without its mean, from coarse to fine detail.
    Rescaling, recompression, small shifts and small changes of the contents change few of its bits.
    """
    return hash_of_square(grey_square(image))


def grey_square(image: Image.Image) -> Squares:
    """An image as 64x64 grey pixels, uint8 [64, 64], whatever its shape."""
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))


def hash_of_square(square: Squares) -> Hashes:
    """`perceptual_hash` of an image that is a `grey_square` already."""
    # Integers, because the order in which floats are summed would decide the sign of what is nearly zero.
    grey = square.astype(np.int64)
    coefficients = _TRANSFORM @ grey @ _TRANSFORM.T  # [F, F]
    return np.packbits(coefficients[_ROWS, _COLUMNS] > 0).view(">u8").astype(np.uint64)


def distances(first: Hashes, second: Hashes) -> npt.NDArray[np.int64]:
    """Bits in which hashes [..., 4] differ, [...]."""
    found: npt.NDArray[np.int64] = np.bitwise_count(first ^ second).sum(axis=-1, dtype=np.int64)
    return found


def near_pairs(hashes: Hashes) -> Iterator[tuple[Positions, Positions]]:
    """Every pair of positions in `hashes` [N, 4] that are near, in blocks; a pair may come more than once.

    Near: at most `MAX_DISTANCE` bits differ, and of the first word at most `MAX_COARSE_DISTANCE`. Exact copies of a
    hash come as pairs with the first one alone, and only that one is compared with others.

    Without N^2 comparisons, and none is missed: two words that differ in 8 bits agree in at least 4 of 12 blocks, so
    for each of the 495 choices of 4 blocks the words are sorted by them, and compared where they are equal (Manku et
    al., 2007). Memory: some 160 bytes per hash, and blocks of bounded size. A million took 155 s on one core.
    """
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    copies = first[inverse.ravel()]
    again = np.flatnonzero(copies != np.arange(len(hashes)))
    yield copies[again], again

    tables: Iterable[npt.NDArray[np.uint64]]
    # Neighbouring frequencies go to different blocks: some of them have nearly always the same sign.
    masks = [sum(1 << bit for bit in range(block, 64, _BLOCKS)) for block in range(_BLOCKS)]
    chosen = [np.uint64(sum(c)) for c in combinations(masks, _BLOCKS - MAX_COARSE_DISTANCE)]
    if len(unique) <= _ALL_PAIRS_UP_TO or _tables_compare_more(unique[:, 0], chosen):
        tables = [np.zeros(len(unique), dtype=np.uint64)]
    else:
        tables = (unique[:, 0] & mask for mask in track(chosen, "near-repeats", len(chosen), "tables"))
    for keys in tables:
        order = np.argsort(keys, kind="stable")
        for i, j in _pairs_of_equal(keys[order]):
            one, other = order[i], order[j]
            coarse = np.bitwise_count(unique[one, 0] ^ unique[other, 0]) <= MAX_COARSE_DISTANCE
            one, other = one[coarse], other[coarse]
            near = distances(unique[one], unique[other]) <= MAX_DISTANCE
            yield first[one[near]], first[other[near]]


def _tables_compare_more(words: npt.NDArray[np.uint64], masks: Sequence[np.uint64]) -> bool:
    """Whether the tables would compare more pairs than there are, judged by some of them: parts that all lie in one
    place agree in many of their blocks."""
    tried = masks[:: len(masks) // _TABLES_TRIED]
    equal = [np.unique(words & mask, return_counts=True)[1].astype(np.float64) for mask in tried]
    compared = sum(float((n * (n - 1)).sum()) / 2 for n in equal) * len(masks) / len(tried)
    return compared > len(words) * (len(words) - 1) / 2


def _pairs_of_equal(keys: npt.NDArray[np.uint64]) -> Iterator[tuple[Positions, Positions]]:
    """Every pair of places `i < j` in sorted `keys` with equal keys, in blocks of about `_PAIRS_AT_ONCE`."""
    ends = np.searchsorted(keys, keys, side="right")
    followers = ends - np.arange(len(keys)) - 1  # pairs in which a place comes first
    total = np.concatenate([[0], np.cumsum(followers)])
    start = 0
    while start < len(keys):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + _PAIRS_AT_ONCE, side="right")) - 1)
        counts = followers[start:stop]
        if counts.any():
            i = np.repeat(np.arange(start, stop), counts)
            j = i + 1 + np.arange(len(i)) - np.repeat(total[start:stop] - total[start], counts)
            yield i, j
        start = stop


def nearest_pairs(hashes: Hashes, most: int, sides: npt.NDArray[np.int64] | None = None) -> tuple[Positions, Positions]:
    """Pairs of positions in `hashes` [N, 4] that are near, the nearest first, each once and at most `most`.

    Unlike with `near_pairs`, any two copies of a hash are a pair. Memory grows with `most` and N, not with the pairs.

    Args:
        hashes: Of M pictures.
        most: The bound.
        sides: A number for each picture; only pairs with different ones count. None: all pairs do.
    """
    unique, inverse = np.unique(hashes, axis=0, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    copies = np.bincount(inverse.ravel(), minlength=len(unique))
    members = np.split(order, np.cumsum(copies)[:-1])
    across = np.arange(len(hashes)) if sides is None else sides
    low = np.array([across[m].min() for m in members], np.int64)
    high = np.array([across[m].max() for m in members], np.int64)

    def with_pair(one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
        """Of each two hashes, whether they have pictures of different sides."""
        differ: npt.NDArray[np.bool_] = np.minimum(low[one], low[other]) != np.maximum(high[one], high[other])
        return differ

    count = max(len(unique), 1)
    itself = np.flatnonzero(low != high)
    held = itself * count + itself  # (bits, one, other) as one number, which sorts by the bits
    waiting: list[Positions] = []
    for i, j in near_pairs(unique):
        one, other = np.minimum(i, j), np.maximum(i, j)
        kept = with_pair(one, other)
        one, other = one[kept], other[kept]
        keys = (distances(unique[one], unique[other]) * count + one) * count + other
        waiting.append(keys if len(held) < most else keys[keys < held[-1]])
        if sum(map(len, waiting)) > most:
            held, waiting = np.unique(np.concatenate([held, *waiting]))[:most], []
    held = np.unique(np.concatenate([held, *waiting]))[:most]

    def pictures() -> Iterator[tuple[int, int]]:
        for one, other in zip((held // count % count).tolist(), (held % count).tolist(), strict=True):
            for i in members[one].tolist():
                for j in members[other].tolist():
                    if across[i] != across[j] and (one != other or i < j):
                        yield i, j

    found = np.array(list(islice(pictures(), most)), np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def views_of_one_bag(numbers: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]) -> tuple[Positions, Positions]:
    """Positions of images with consecutive numbers and equal widths: two views that the scanner took at once.

    In the slice at hand 27 of 37 pairs of negatives with consecutive numbers have one width, of all other pairs 0.4 %.

    Args:
        numbers: Of the images' names, ascending; -1 where there is none.
        widths: Raw pixels, -1 where unknown.
    """
    pairs = (numbers[:-1] >= 0) & (np.diff(numbers) == 1) & (widths[:-1] > 0) & (np.diff(widths) == 0)
    first = np.flatnonzero(pairs)
    return first, first + 1


class Groups:
    """Which of `count` positions chains of pairs connect."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, first: Positions, second: Positions) -> None:
        """Connects `first[k]` with `second[k]` for every k."""
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            a, b = (
                self._roots(first[start : start + _PAIRS_AT_ONCE]),
                self._roots(second[start : start + _PAIRS_AT_ONCE]),
            )
            while len(a):
                # Of several partners the smallest wins; the others are joined in the next round.
                np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))
                a, b = self._roots(a), self._roots(b)
                apart = a != b
                a, b = a[apart], b[apart]

    def firsts(self) -> Positions:
        """For each position the smallest one that it is connected with."""
        return self._roots(np.arange(len(self._parent)))

    def _roots(self, positions: Positions) -> Positions:
        found = self._parent[positions]
        while not np.array_equal(found, above := self._parent[found]):
            found = above
        self._parent[positions] = found
        return found
