"""What the leakage audit would call near-duplicates are one group of the manifest, so that no split tears them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from vigil.config import FolderData, PatchSection
from vigil.evaluation.duplicates import near_duplicates
from vigil.images.extraction import extract_split
from vigil.images.manifest import build_manifest
from vigil.images.shards import PatchShards
from vigil.records import SPLIT_TABLE

IMAGES = 10


def scene(seed: int, likeness: float) -> Image.Image:
    """A picture of 128x96; two of them have the more in common the higher `likeness` (0 to 1).

    Its finest detail is of two pixels, which scaling does not wipe out: the manifest sees raw pictures, the audit
    preprocessed ones.
    """

    def layers(seed: int) -> npt.NDArray[np.float64]:
        random = np.random.default_rng(seed)
        fine, coarse = random.normal(0, 1, (48, 64)), random.normal(0, 3, (6, 8))
        return np.kron(fine, np.ones((2, 2))) + np.kron(coarse, np.ones((16, 16)))

    pixels = 128 + 15 * (likeness * layers(10**6) + (1 - likeness) * layers(seed))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


changes = st.one_of(
    st.tuples(st.just("compressed"), st.integers(60, 95)),
    st.tuples(st.just("darkened"), st.floats(0.7, 0.99)),
    st.tuples(st.just("scaled"), st.floats(0.9, 2.0)),
    st.tuples(st.just("noisy"), st.floats(0.0, 8.0)),
)


def write(path: Path, image: Image.Image, change: tuple[str, float]) -> None:
    kind, by = change
    if kind == "compressed":
        image.save(path.with_suffix(".jpg"), quality=int(by))
        return
    if kind == "darkened":
        image = ImageEnhance.Brightness(image).enhance(by)
    elif kind == "scaled":
        image = image.resize((round(128 * by), round(96 * by)), Image.Resampling.BICUBIC)
    elif kind == "noisy":
        noise = np.random.default_rng(0).normal(0, by, (96, 128))
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    image.save(path)


@given(
    seed=st.integers(0, 10_000),
    likeness=st.sampled_from([0.0, 0.5, 0.8]),
    # Fewer than half of the images: where most have a copy, the copies pass for what is usual.
    copies=st.dictionaries(st.integers(0, IMAGES - 1), changes, min_size=2, max_size=3),
    # A copy of another resolution may look like its picture only once both are scaled, which the manifest cannot know.
    prepared=st.sampled_from([(None, True), (64, False)]),
)
@settings(max_examples=6, deadline=None)
def test_a_near_duplicate_by_the_audit_is_one_group_by_the_manifest(
    seed: int, likeness: float, copies: dict[int, tuple[str, float]], prepared: tuple[int | None, bool]
) -> None:
    shorter_side_px, may_be_scaled = prepared
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw/normal").mkdir(parents=True)
        for number in range(IMAGES):
            scene(seed + number, likeness).save(folder / f"raw/normal/{number:02d}.png")
        for number, (of, change) in enumerate(copies.items()):
            if change[0] == "scaled" and not may_be_scaled:
                continue
            write(folder / f"raw/normal/copy-{number:02d}.png", scene(seed + of, likeness), change)
        manifest = build_manifest(FolderData(name="folder", root=str(folder / "raw")))
        groups = dict(zip(manifest["image_id"].to_pylist(), manifest["group"].to_pylist(), strict=True))

        # The worst split that could be: originals train, every copy is a test image.
        ids = manifest["image_id"].to_pylist()
        assume(any("copy" in image_id for image_id in ids))
        split = ["test" if "copy" in image_id else "train" for image_id in ids]
        columns = {"image_id": ids, "split": split, **{n: manifest[n].to_pylist() for n in ("label", "kind", "group")}}
        splits = pa.table(columns).select(SPLIT_TABLE.schema.names).cast(SPLIT_TABLE.schema)
        patch = PatchSection(
            channels=1, patch_size_px=32, stride_px=32, shorter_side_px=shorter_side_px, buckets=1, workers=1
        )
        shards = {}
        for part in ("train", "test"):
            extract_split(part, manifest, splits, folder / "raw", patch, folder / part)
            shards[part] = PatchShards.open(folder / part)
        found = near_duplicates(shards["test"], {"train": shards["train"]}, patch, 0)
        torn = [pair for pair in found.pairs if groups[pair.test_image] != groups[pair.image]]
        assert not torn, f"limit {found.limit}"
