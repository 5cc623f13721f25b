"""Which bucket an image belongs to, and how few images move when a data set grows."""

from __future__ import annotations

import numpy as np
import pytest

from vigil.config import PatchSection
from vigil.images.buckets import bucket_count, bucket_of

AUTO = PatchSection(buckets="auto")
IDS = [f"JPEGImages/N{number:06d}.jpg" for number in range(4000)]


def test_buckets_depend_on_the_image_alone_and_are_spread() -> None:
    found = [bucket_of(name, 16) for name in IDS]
    assert np.bincount(found, minlength=16).min() > 190
    assert [bucket_of(name, 16) for name in ("a", "b", "ü/ß.png")] == [10, 10, 7]


@pytest.mark.parametrize("buckets", [1, 2, 3, 4, 7, 8, 19, 64, 100])
def test_one_bucket_more_takes_images_from_one_bucket_alone(buckets: int) -> None:
    before = np.array([bucket_of(name, buckets) for name in IDS])
    after = np.array([bucket_of(name, buckets + 1) for name in IDS])
    moved = before != after
    assert before.max() == buckets - 1
    assert set(after[moved]) == {buckets}
    assert len(set(before[moved])) == 1
    sizes = np.bincount(before, minlength=buckets)
    assert sizes.max() < 2 * 1.8 * len(IDS) / buckets, "at most twice the mean, and chance"


def test_buckets_grow_with_the_split_and_files_stay_few() -> None:
    assert bucket_count(10_000, AUTO) == bucket_count(10_001, AUTO) == 19
    assert bucket_count(1, AUTO) == 4
    assert bucket_count(100, PatchSection(buckets=7)) == 7
    for images in (3_000, 10_000, 100_000, 1_059_231):
        assert 3 * bucket_count(images, AUTO) + 1 < images / 100
