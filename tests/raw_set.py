"""A raw data set of a few images of noise, with the tables that name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from vigil.config import PatchSection
from vigil.files import digest_bytes
from vigil.images.extraction import ExtractionCounts, extract_split
from vigil.records import MANIFEST

PATCH = PatchSection(patch_size_px=32, stride_px=16, buckets=4, workers=1)


@dataclass
class RawSet:
    """Images written to a folder, with the tables that name them."""

    root: Path
    rows: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        size: tuple[int, int] = (40, 56),
        label: int = 0,
        mask: np.ndarray | None = None,
        boxes: tuple[tuple[int, int, int, int], ...] = (),
    ) -> np.ndarray:
        """Writes an image of noise (a function of its name) and returns its pixels [H, W, 3]."""
        noise = np.random.default_rng(int.from_bytes(name.encode(), "big"))
        pixels = noise.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.root / name)
        if mask is not None:
            Image.fromarray(mask.astype(np.uint8) * 255).save(self.root / f"mask-{name}")
        content = (self.root / name).read_bytes()
        self.rows[name] = {
            "image_id": name,
            "path": name,
            "offset": None,
            "bytes": len(content),
            "sha256": digest_bytes(content),
            "height": size[0],
            "width": size[1],
            "mode": "RGB",
            "label": label,
            "kind": "scratch" if label else "normal",
            "group": f"group of {name}",
            "official_split": None,
            "mask_path": None if mask is None else f"mask-{name}",
            "boxes": [dict(zip(("kind", "x0", "y0", "x1", "y1"), ("gun", *b), strict=True)) for b in boxes],
            "fault": None,
        }
        return pixels

    @property
    def manifest(self) -> pa.Table:
        return pa.Table.from_pylist(list(self.rows.values()), schema=MANIFEST.schema)

    def splits(self, split: str) -> pa.Table:
        table = self.manifest.select(["image_id", "label", "kind", "group"])
        return table.append_column("split", pa.array([split] * len(table)))

    def extract(self, folder: Path, split: str = "test", patch: PatchSection = PATCH) -> ExtractionCounts:
        return extract_split(split, self.manifest, self.splits(split), self.root, patch, folder)
