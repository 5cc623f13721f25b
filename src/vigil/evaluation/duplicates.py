"""Test images that training or calibration saw in all but name: copies that were compressed, scaled or brightened.

Equal bytes are found by their hash elsewhere. Here pictures are compared, as the pair sees them: first by perceptual
hash (`near_repeats`), then by fine detail (`fine_detail`), the rule by which the manifest groups near-repeats as well.

Legend: K pixels of a square.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vigil.config import PatchSection
from vigil.evaluation.localisation import stitched_images
from vigil.images.fine_detail import AGAINST, FARTHEST, REFERENCES, fine_detail, limit_of_likeness
from vigil.images.near_repeats import WORDS, Squares, grey_square, hash_of_square, nearest_pairs, perceptual_hash
from vigil.images.shards import PatchShards
from vigil.progress import Progress
from vigil.seeding import numpy_generator

_MOST_TEST_IMAGES = 2000
_MOST_TEST_PATCHES = 20_000
_READ_AT_ONCE = 256
_MOST_PAIRS = 20_000  # the nearest by hash; each picture of a pair takes 16 kB

Detail = NDArray[np.float32]


class Duplicate(NamedTuple):
    """A test image and its like in another split."""

    test_image: str
    split: str
    image: str
    distance: float
    """1 - correlation of their fine detail; 0 = the same picture."""


class Duplicates(NamedTuple):
    """What the comparison found."""

    pairs: list[Duplicate]
    """The nearest first; at most one per test image and split."""
    test_images: int
    """Compared; a seeded sample where the split has more than 2,000."""
    candidates: int
    """Pairs with near hashes."""
    limit: float
    """Distance at or below which two pictures count as one."""


def near_duplicates(test: PatchShards, others: Mapping[str, PatchShards], patch: PatchSection, seed: int) -> Duplicates:
    """The test images that are near-duplicates of images in `others`.

    Two pictures are near-duplicates if their perceptual hashes are near, and the distance of their fine detail is at
    most the `limit_of_likeness` among training images. Shifted, turned and mirrored copies are not found.

    Args:
        test: The test patches.
        others: Patches by name of the split; `train` is what the limit is taken from, where it is there.
        patch: How they were cut.
        seed: Of the samples.
    """
    random = numpy_generator(seed, "near duplicates")
    test_ids = _sampled(_ids(test), _MOST_TEST_IMAGES, random)
    test_hashes = _hashes(test, patch, "test", set(test_ids))
    limit = _limit(others.get("train", test), patch, random)
    pairs: list[Duplicate] = []
    candidates = 0
    for name, shards in others.items():
        near = _near(test_hashes, _hashes(shards, patch, name))
        candidates += len(near)
        own = _details(test, patch, {first for first, _ in near})
        other = _details(shards, patch, {second for _, second in near})
        nearest: dict[str, Duplicate] = {}
        for first, second in near:
            distance = 1 - float(own[first] @ other[second])
            if distance <= limit and (first not in nearest or distance < nearest[first].distance):
                nearest[first] = Duplicate(first, name, second, max(distance, 0.0))
        pairs += nearest.values()
    pairs.sort(key=lambda pair: (pair.distance, pair.test_image, pair.split))
    return Duplicates(pairs, len(test_ids), candidates, limit)


def rehearsed_duplicates(
    rehearsed: Mapping[str, NDArray[np.uint8]], test: PatchShards, train: PatchShards, seed: int
) -> Duplicates:
    """The test images with a patch that is a near-duplicate of a rehearsed one.

    As `near_duplicates`, with a limit for each test patch: its `limit_of_likeness` among training patches. So a piece
    of background that looks the same in every image is no near-duplicate.

    Args:
        rehearsed: Patches [P, P, C] of an earlier version's training, by name.
        test: The test patches; a seeded sample where there are more than 20,000.
        train: The training patches; a seeded sample of 1,000 is what is usual.
        seed: Of the samples.
    """
    random = numpy_generator(seed, "rehearsed duplicates")
    rows = {split: shards.rows_of("grid") for split, shards in (("test", test), ("train", train))}
    for split, most in (("test", _MOST_TEST_PATCHES), ("train", AGAINST)):
        if len(rows[split]) > most:
            rows[split] = np.sort(random.choice(rows[split], most, replace=False))
    old = {name: _grey(patch) for name, patch in rehearsed.items()}
    new = dict(_squares_of(test, rows["test"]))
    near = _near(_hashes_of({str(row): square for row, square in new.items()}), _hashes_of(old))
    usual = fine_detail(np.stack([square for _, square in _squares_of(train, rows["train"])]))
    ids = test.index.column("image_id")
    found: dict[str, Duplicate] = {}
    for row, name in near:
        details = fine_detail(np.stack([new[int(row)], old[name]]))
        distance = 1 - float(details[0] @ details[1])
        among = np.concatenate([details[:1], usual])
        image_id = str(ids[int(row)].as_py())
        if distance <= limit_of_likeness(among, [0], np.arange(len(among))) and (
            image_id not in found or distance < found[image_id].distance
        ):
            found[image_id] = Duplicate(image_id, "rehearsal", name, max(distance, 0.0))
    pairs = sorted(found.values(), key=lambda pair: (pair.distance, pair.test_image))
    images = len({ids[int(row)].as_py() for row in rows["test"].tolist()})
    return Duplicates(pairs, images, len(near), FARTHEST)


def _grey(patch: NDArray[np.uint8]) -> Squares:
    return grey_square(Image.fromarray(patch.squeeze()))


def _hashes_of(squares: Mapping[str, Squares]) -> dict[str, bytes]:
    return {name: hash_of_square(square).tobytes() for name, square in squares.items()}


def _squares_of(shards: PatchShards, rows: NDArray[np.int64]) -> Iterator[tuple[int, Squares]]:
    progress = Progress("rehearsed near-duplicates", len(rows), "patches")
    for start in range(0, len(rows), _READ_AT_ONCE):
        part = rows[start : start + _READ_AT_ONCE]
        yield from zip(part.tolist(), map(_grey, shards.read(part)), strict=True)
        progress.advance(len(part))
    progress.close()


def _near(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """The names of pictures whose hashes are near, one of `first` and one of `second`, the nearest first."""
    names = [*first, *second]
    sides = np.repeat([0, 1], [len(first), len(second)])
    hashes = np.frombuffer(b"".join([*first.values(), *second.values()]), dtype=np.uint64).reshape(-1, WORDS)
    one, other = nearest_pairs(hashes, _MOST_PAIRS, sides)
    pairs = zip(np.minimum(one, other).tolist(), np.maximum(one, other).tolist(), strict=True)
    return [(names[i], names[j]) for i, j in pairs]


def _limit(train: PatchShards, patch: PatchSection, random: np.random.Generator) -> float:
    """See `near_duplicates`; images of one group do not count as alike by chance."""
    groups = dict(zip(*(train.index.column(name).to_pylist() for name in ("image_id", "group")), strict=True))
    details = _details(train, patch, set(_sampled(sorted(groups), AGAINST, random)))
    names = list(details)
    references = [names.index(name) for name in _sampled(names, REFERENCES, random)]
    group = np.array([groups[name] for name in names], dtype=np.str_)
    return limit_of_likeness(np.stack(list(details.values())), references, group)


def _ids(shards: PatchShards) -> list[str]:
    return sorted(set(shards.index.column("image_id").to_pylist()))


def _sampled(names: list[str], count: int, random: np.random.Generator) -> list[str]:
    return names if len(names) <= count else sorted(random.choice(names, count, replace=False).tolist())


def _pictures(
    shards: PatchShards, patch: PatchSection, only: Collection[str] | None = None
) -> Iterator[tuple[str, Image.Image]]:
    for image in stitched_images(shards, patch, None, only):
        yield image.image_id, Image.fromarray(image.pixels.squeeze())


def _hashes(
    shards: PatchShards, patch: PatchSection, name: str, only: Collection[str] | None = None
) -> dict[str, bytes]:
    progress = Progress(f"near-duplicates, {name}", len(_ids(shards) if only is None else only), "images")
    found = {}
    for image_id, picture in _pictures(shards, patch, only):
        found[image_id] = perceptual_hash(picture).tobytes()
        progress.advance()
    progress.close()
    return found


def _details(shards: PatchShards, patch: PatchSection, only: Collection[str]) -> dict[str, Detail]:
    """The fine detail of each picture, [K]."""
    pictures = _pictures(shards, patch, only) if only else ()
    return {image_id: fine_detail(grey_square(picture)[None])[0] for image_id, picture in pictures}
