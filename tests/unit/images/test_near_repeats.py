"""The hash is what it says, no near pair is missed, and chains become groups."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.real_data import REAL, needs
from vigil.images import near_repeats
from vigil.images.near_repeats import (
    MAX_COARSE_DISTANCE,
    MAX_DISTANCE,
    Groups,
    near_pairs,
    nearest_pairs,
    perceptual_hash,
)


def waves(across: int, down: int) -> Image.Image:
    """One cosine of the transform, `across` and `down` half waves over the image."""
    y, x = np.mgrid[:64, :64]
    values = np.cos(np.pi * across * (2 * x + 1) / 128) * np.cos(np.pi * down * (2 * y + 1) / 128)
    return Image.fromarray(np.rint(128 + 100 * values).astype(np.uint8))


def test_the_hash_is_the_signs_of_the_lowest_frequencies() -> None:
    # By frequency: (0, 1), (1, 0), (0, 2), (1, 1), ... as (across, down); the first is the highest bit.
    first = [int(perceptual_hash(waves(*frequency))[0]) >> 60 for frequency in ((0, 1), (1, 0), (0, 2), (1, 1))]
    assert [bits & mask for bits, mask in zip(first, (0b1000, 0b0100, 0b0010, 0b0001), strict=True)] == [8, 4, 2, 1]
    assert perceptual_hash(Image.new("RGB", (300, 200), (7, 9, 200))).tolist() == [0, 0, 0, 0]


def test_rescaling_recompression_and_brightness_change_few_bits_and_another_picture_half(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def picture() -> Image.Image:
        small = Image.fromarray(random.integers(0, 200, (12, 16), dtype=np.uint8))
        return small.resize((320, 240), Image.Resampling.BICUBIC)

    one, other = picture(), picture()
    one.resize((301, 222)).point(lambda value: value + 30).save(tmp_path / "x.jpg", quality=60)
    changed = perceptual_hash(Image.open(tmp_path / "x.jpg"))
    assert near_repeats.distances(perceptual_hash(one), changed) < 20
    assert near_repeats.distances(perceptual_hash(one), perceptual_hash(other)) > 90


def clustered(count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Hashes around a few centres, at distances on both sides of the limits."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2, (count // 20, 256), dtype=np.uint8)
    flips = random.random((count, 256)) < random.uniform(0, 0.2, (count, 1))
    bits = np.repeat(centres, 20, axis=0) ^ flips
    bits[5] = bits[3]
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)


@pytest.mark.parametrize("all_pairs_up_to", [0, 4096])  # by sorted tables, and by brute force
def test_no_near_pair_is_missed_and_no_other_is_found(all_pairs_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_repeats, "_ALL_PAIRS_UP_TO", all_pairs_up_to)
    monkeypatch.setattr(near_repeats, "_PAIRS_AT_ONCE", 100)
    hashes = clustered(400)
    values = [[int(word) for word in row] for row in hashes]
    first = {tuple(row): place for place, row in reversed(list(enumerate(values)))}
    copies = {place for place, row in enumerate(values) if first[tuple(row)] != place}
    expected = {(first[tuple(values[place])], place) for place in copies}  # a copy comes with the first one alone
    for i, j in combinations(range(len(values)), 2):
        bits = [(a ^ b).bit_count() for a, b in zip(values[i], values[j], strict=True)]
        if not {i, j} & copies and bits[0] <= MAX_COARSE_DISTANCE and sum(bits) <= MAX_DISTANCE:
            expected.add((i, j))
    found = {(min(p), max(p)) for i, j in near_pairs(hashes) for p in zip(i.tolist(), j.tolist(), strict=True)}
    assert found == expected
    assert 300 < len(expected) < 3000
    assert (3, 5) in expected


def test_many_hashes_need_far_fewer_comparisons_than_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    plain = near_repeats._pairs_of_equal

    def counting(keys: npt.NDArray[np.uint64]):  # type: ignore[no-untyped-def]
        nonlocal compared
        for pair in plain(keys):
            compared += len(pair[0])
            yield pair

    monkeypatch.setattr(near_repeats, "_pairs_of_equal", counting)
    random = np.random.default_rng(0)
    count = 20_000
    list(near_pairs(random.integers(0, 2**64, (count, 4), dtype=np.uint64)))
    assert compared < count**2 / 2 / 50


@pytest.mark.parametrize("all_pairs_up_to", [0, 4096])
def test_parts_that_lie_alike_are_compared_no_more_often_than_all_with_all(
    all_pairs_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_repeats, "_ALL_PAIRS_UP_TO", all_pairs_up_to)
    bits = np.zeros((60, 256), np.uint8)
    bits[np.arange(60), 128 + np.arange(60)] = 1  # all agree in the first word, and lie 2 bits apart
    found = [
        pair
        for i, j in near_pairs(np.packbits(bits, axis=1).view(">u8").astype(np.uint64))
        for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    assert len(found) == len(set(found)) == 60 * 59 // 2


@pytest.mark.parametrize("most", [7, 200, 10_000])
@pytest.mark.parametrize("two_sides", [False, True])
def test_the_nearest_pairs_come_first_with_every_copy_and_within_the_bound(most: int, two_sides: bool) -> None:
    hashes = clustered(200)
    hashes[[7, 8, 90]] = hashes[3]
    sides = np.arange(200) % 2 if two_sides else None
    values = [[int(word) for word in row] for row in hashes]
    expected = []
    for i, j in combinations(range(200), 2):
        bits = [(a ^ b).bit_count() for a, b in zip(values[i], values[j], strict=True)]
        if bits[0] <= MAX_COARSE_DISTANCE and sum(bits) <= MAX_DISTANCE and (sides is None or sides[i] != sides[j]):
            expected.append((sum(bits), i, j))
    one, other = nearest_pairs(hashes, most, sides)
    found = [
        (int(near_repeats.distances(hashes[i], hashes[j])), min(i, j), max(i, j))
        for i, j in zip(one, other, strict=True)
    ]
    assert len(found) == len(set(found)) == min(most, len(expected)) > 6
    assert set(found) <= set(expected)
    assert [bits for bits, _, _ in found] == sorted(bits for bits, _, _ in expected)[:most]


def test_groups_name_each_chain_by_its_first_member() -> None:
    groups = Groups(8)
    groups.join(np.array([4, 2, 5]), np.array([1, 4, 5]))
    groups.join(np.array([7, 7]), np.array([6, 2]))
    assert groups.firsts().tolist() == [0, 1, 1, 3, 1, 5, 1, 1]
    random = np.random.default_rng(1)
    one, other = random.integers(0, 500, (2, 400))
    groups = Groups(500)
    groups.join(one, other)
    label = list(range(500))  # by plain flooding
    for _ in range(500):
        for i, j in zip(one.tolist(), other.tolist(), strict=True):
            label[i] = label[j] = min(label[i], label[j])
    assert groups.firsts().tolist() == label


@needs("sixray")
@pytest.mark.real_data
def test_on_the_real_slice_the_suitcase_is_found_and_no_two_other_bags_are_joined() -> None:
    paths = sorted((REAL / "sixray/JPEGImages").glob("*.jpg"))
    hashes = np.array([perceptual_hash(Image.open(path)) for path in paths])
    found = [np.stack(pair, axis=1) for pair in near_pairs(hashes)]
    pairs = {tuple(sorted((paths[i].stem, paths[j].stem))) for i, j in np.concatenate(found).tolist()}
    assert not [pair for pair in pairs if pair[0].startswith("N") or pair[1].startswith("N")]
    assert len(pairs) == 37
    assert {("P00313", "P00316"), ("P00113", "P00115"), ("P00157", "P00162")} <= pairs
