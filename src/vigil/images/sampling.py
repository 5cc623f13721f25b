"""A sample of the images of a table, read and preprocessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vigil.config import PatchSection
from vigil.images.preprocessing import scaled_pixels
from vigil.images.source import RawFolder


def spread(rows: pa.Table, most: int) -> pa.Table:
    """At most `most` of the rows, at equal distances in their order."""
    places = np.linspace(0, rows.num_rows - 1, min(rows.num_rows, most)).round().astype(np.int64)
    return rows.take(pa.array(places))


def scaled_images(
    rows: Iterable[dict[str, Any]], root: Path, patch: PatchSection
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8]]]:
    """Each row of records.MANIFEST with the scaled pixels of its image, uint8 [H, W, C].

    Raises:
        DataError: A raw file is missing, changed or does not decode.
    """
    raw = RawFolder(root)
    for row in rows:
        content = raw.read(row["path"], row["offset"], row["bytes"])
        yield row, scaled_pixels(content, row["path"], patch, (row["height"], row["width"]))
