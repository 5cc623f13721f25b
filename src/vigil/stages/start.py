"""start: what training begins from - nothing, or a registered version and a sample of what it learned from.

It also draws the sample that will be kept with the version that this run makes, from the parent's sample and the new
data together.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigil.config import PatchSection, RegisterSection, StartSection
from vigil.errors import ConfigError
from vigil.files import write_json, written_aside
from vigil.records import KEPT, MANIFEST, SPLIT_TABLE
from vigil.stages import layout

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


def run(patch: PatchSection, start: StartSection, register: RegisterSection) -> None:
    """Writes the parent, what is rehearsed and tested of its data, and the sample that this run hands on.

    An old training image that serves for calibration or test now is not rehearsed, and an old test image that is
    trained or calibrated on now (or any of its group) is no longer tested. `register` says where MLflow is; the pinned
    digests decide what comes from there.
    """
    from vigil.images.rehearsal import nothing, without

    manifest, splits = MANIFEST.read(layout.ACCEPTED), SPLIT_TABLE.read(layout.SPLITS)
    sha256 = dict(zip(manifest.column("image_id").to_pylist(), manifest.column("sha256").to_pylist(), strict=True))
    bytes_of: dict[str, set[str]] = {"train": set(), "calibration": set(), "test": set()}
    for image_id, split in zip(splits.column("image_id").to_pylist(), splits.column("split").to_pylist(), strict=True):
        bytes_of[split].add(sha256[image_id])

    old = {"train": nothing(), "test": nothing()}
    with written_aside(layout.START) as new:
        new.mkdir()
        record: dict[str, Any] = {"parent": None}
        if start.parent is not None:
            kept = _fetch(start, patch, register, new)
            old["train"] = without(kept["train"], bytes_of["calibration"] | bytes_of["test"], whole_groups=False)
            old["test"] = without(kept["test"], bytes_of["train"] | bytes_of["calibration"], whole_groups=True)
            left_out = {split: kept[split].num_rows - old[split].num_rows for split in old}
            record = {"parent": start.parent.model_dump(), "left_out": left_out}
            for split, table in old.items():
                _log.info("%s: %d old entries, %d left out", split, table.num_rows, left_out[split])
        write_json(new / "start.json", record)
    # What is trained on again anyway needs no rehearsal.
    KEPT.write(layout.REHEARSAL["train"], without(old["train"], bytes_of["train"], whole_groups=False))
    KEPT.write(layout.REHEARSAL["test"], old["test"])
    _hand_on(old, sha256, patch, start)


def _fetch(start: StartSection, patch: PatchSection, register: RegisterSection, folder: Path) -> dict[str, pa.Table]:
    """Copies the parent's bundle into `folder`; the tables of the sample that was kept with it."""
    from vigil.delivery.bundle import MACHINE_SETTINGS, load_bundle
    from vigil.delivery.mlflow_registry import fetch_parent

    assert start.parent is not None
    bundle, sample = fetch_parent(register, start.parent)
    before, now = (p.model_dump(exclude=MACHINE_SETTINGS) for p in (load_bundle(bundle).patch, patch))
    wrong = [f"patch.{key} was {before[key]!r}, is {now[key]!r}" for key in now if before[key] != now[key]]
    if wrong:
        raise ConfigError(
            f"version {start.parent.version} saw its images otherwise than this run does, so that old and new patches "
            f"would differ: {'; '.join(wrong)}. Set these keys back, or train from scratch "
            f"(`vigil train --from scratch`)."
        )
    shutil.copytree(bundle, folder / layout.PARENT_BUNDLE)
    return {split: KEPT.read(sample / f"{split}.parquet") for split in ("train", "test")}


def _hand_on(old: dict[str, pa.Table], sha256: dict[str, str], patch: PatchSection, start: StartSection) -> None:
    from vigil.evaluation.localisation import stitched_images
    from vigil.images.rehearsal import Numbered, Offer, Pixels, draw, draw_of_each_label, head, image_key, patch_key
    from vigil.images.shards import PatchShards

    train = PatchShards.open(layout.PATCHES["train"])
    columns = ["image_id", "y", "x", "image_label", "kind", "group"]

    def patches() -> Iterator[Numbered]:
        for bucket in train.buckets:
            index = train.index_of(bucket)
            rows = zip(*(index.column(n).to_pylist() for n in columns), strict=True)
            for number, (i, y, x, label, kind, group) in zip(train.rows_of(bucket=bucket).tolist(), rows, strict=True):
                yield Offer(patch_key(start.seed, sha256[i], y, x), sha256[i], label, kind, group), number

    first = head(patches(), start.keep_train_mib)

    def read_patch(number: int) -> Pixels:
        pixels: Pixels = train.read([first[number][1]])[0]
        return pixels

    test = PatchShards.open(layout.PATCHES["test"])
    rows = test.index.select(["image_id", "bucket", "image_label", "kind", "group"]).to_pylist()
    by_id = {row["image_id"]: row for row in rows}
    images = [
        Offer(image_key(start.seed, row["group"], sha256[i]), sha256[i], row["image_label"], row["kind"], row["group"])
        for i, row in by_id.items()
    ]
    ids = list(by_id)

    def read_image(number: int) -> Pixels:
        (image,) = stitched_images(test, patch, only={ids[number]}, buckets=[by_id[ids[number]]["bucket"]])
        return image.pixels

    with written_aside(layout.HANDED_ON) as new:
        new.mkdir()
        kept = draw(old["train"], [offer for offer, _row in first], read_patch, start.keep_train_mib)
        KEPT.write(new / "train.parquet", kept)
        tested = draw_of_each_label(old["test"], images, read_image, start.keep_test_mib)
        KEPT.write(new / "test.parquet", tested)
    _log.info("kept for the next version: %d patches, %d test images", kept.num_rows, tested.num_rows)
