"""What is kept of the data of a version, so that those trained from it can rehearse it and be tested on it.

A sample is a table (records.KEPT): the first entries, up to a bound in bytes, in an order that is a hash of the seed
and of the entry alone. So it is uniform over all that was offered, and drawing from an earlier sample and new data
together gives what drawing from all the data at once would: a chain of versions stays bounded without favouring its
first or its last. An image that is offered twice is one entry, because entries are known by the image's bytes.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from vigil.errors import DataError
from vigil.records import ANOMALOUS, KEPT, NORMAL
from vigil.seeding import derive_seed

MIB = 1 << 20
_LEAST_PNG_BYTES = 67
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Offer:
    """What could be kept, before its pixels are read."""

    key: str
    sha256: str
    label: int
    kind: str
    group: str


Numbered = tuple[Offer, int]
"""With a number by which its pixels are found."""


class Sample(NamedTuple):
    """A table records.KEPT, in the order of its keys, as arrays. N entries."""

    pixels: list[Pixels]
    """[N], each uint8 [H, W, C]."""
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_]


def patch_key(seed: int, sha256: str, y: int, x: int) -> str:
    """The place of a training patch in the order: patches one by one."""
    return f"{derive_seed(seed, f'kept patch {sha256}', y, x):016x}"


def image_key(seed: int, group: str, sha256: str) -> str:
    """The place of a test image in the order: groups one by one, the images of a group after each other."""
    return f"{derive_seed(seed, f'kept group {group}'):016x}{derive_seed(seed, f'kept image {sha256}'):016x}"


def head(offers: Iterable[Numbered], mib: float) -> list[Numbered]:
    """Those of `offers`, in order, that could be kept within `mib` MiB however well they encode; the memory that it
    takes does not depend on how many are offered."""
    return heapq.nsmallest(int(mib * MIB / _LEAST_PNG_BYTES) + 1, offers, key=lambda offer: offer[0].key)


def draw(kept: pa.Table, offers: Sequence[Offer], read: Callable[[int], Pixels], mib: float) -> pa.Table:
    """The first of `kept` and `offers` together whose encoded pixels fit into `mib` MiB, but at least one.

    Args:
        kept: records.KEPT, an earlier sample under the same seed.
        offers: What is new; one whose key is in `kept` is that entry.
        read: The uint8 pixels [H, W, C] of the offer of this number; called for few more than are kept.
        mib: The bound.
    """
    earlier = {row["key"]: row for row in kept.to_pylist()}
    new = {offer.key: number for number, offer in enumerate(offers) if offer.key not in earlier}
    rows: list[dict[str, Any]] = []
    left = int(mib * MIB)
    for key in sorted([*earlier, *new]):
        row = earlier.get(key) or {**asdict(offers[new[key]]), "pixels": encode(read(new[key]))}
        left -= len(row["pixels"])
        if left < 0 and rows:
            break
        rows.append(row)
    return pa.Table.from_pylist(rows, KEPT.schema)


def draw_of_each_label(kept: pa.Table, offers: Sequence[Offer], read: Callable[[int], Pixels], mib: float) -> pa.Table:
    """As `draw`, for each label with half of the bound, so that neither crowds the other out."""
    labels = kept.column("label").to_numpy()
    parts = []
    for label in (NORMAL, ANOMALOUS):
        numbers = [number for number, offer in enumerate(offers) if offer.label == label]
        of_label = [offers[number] for number in numbers]
        parts.append(draw(kept.filter(labels == label), of_label, _renumbered(read, numbers), mib / 2))
    return pa.concat_tables(parts)


def _renumbered(read: Callable[[int], Pixels], numbers: Sequence[int]) -> Callable[[int], Pixels]:
    return lambda number: read(numbers[number])


def without(kept: pa.Table, sha256: Collection[str], *, whole_groups: bool) -> pa.Table:
    """`kept` without the images of these bytes and, with `whole_groups`, without all images of their groups."""
    hit = np.array([digest in sha256 for digest in kept.column("sha256").to_pylist()], np.bool_)
    if whole_groups:
        groups = np.asarray(kept.column("group").to_pylist(), np.str_)
        hit = np.isin(groups, groups[hit])
    return kept.filter(~hit)


def nothing() -> pa.Table:
    """A sample of nothing."""
    return KEPT.schema.empty_table()


def decode(kept: pa.Table) -> Sample:
    """The sample's pixels and labels.

    Raises:
        DataError: An entry does not decode.
    """
    try:
        pixels = [_decoded(content) for content in kept.column("pixels").to_pylist()]
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"a kept sample holds an entry that is no PNG ({error}); run the start stage again") from error
    groups = np.asarray(kept.column("group").to_pylist(), np.str_)
    return Sample(pixels, kept.column("label").to_numpy().astype(np.int64), groups)


def encode(pixels: Pixels) -> bytes:
    """uint8 [H, W, C] as PNG, without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=4)
    return file.getvalue()


def _decoded(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
