"""The sample that is kept with a version: bounded, uniform over the chain, known by bytes."""

from itertools import pairwise

import numpy as np
import pytest

from vigil.errors import DataError
from vigil.images.rehearsal import (
    MIB,
    Offer,
    decode,
    draw,
    draw_of_each_label,
    encode,
    head,
    image_key,
    nothing,
    patch_key,
    without,
)
from vigil.records import ANOMALOUS, KEPT, NORMAL

SIDE = 16


def pixels(number, channels=1):
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, channels), np.uint8)


def offers(numbers, label=NORMAL, group=None):
    return [Offer(patch_key(0, f"sha{n}", 0, 0), f"sha{n}", label, "normal", group or f"g{n}") for n in numbers]


def drawn(kept, numbers, entries, **more):
    """A sample with room for about so many entries; all encode to about the same length."""
    numbers = list(numbers)
    room = entries * (len(encode(pixels(0))) + 8) / MIB
    return draw(kept, offers(numbers, **more), lambda n: pixels(numbers[n]), room)


def keys(table):
    return table.column("key").to_pylist()


def test_a_chain_of_samples_is_the_sample_of_all_its_data():
    chain = nothing()
    for day in range(4):
        chain = drawn(chain, range(100 * day, 100 * day + 100), 20)
    at_once = drawn(nothing(), range(400), 20)
    assert keys(chain) == keys(at_once)
    assert 15 <= chain.num_rows <= 21
    days = np.array([int(s.removeprefix("sha")) // 100 for s in chain.column("sha256").to_pylist()])
    assert len(set(days.tolist())) == 4, "a day was crowded out"


def test_the_bound_holds_in_bytes_and_one_entry_is_always_kept():
    kept = drawn(nothing(), range(50), 10)
    assert sum(map(len, kept.column("pixels").to_pylist())) <= 10 * (len(encode(pixels(0))) + 8)
    assert draw(nothing(), offers([1]), lambda _n: pixels(1), 1e-9).num_rows == 1


def test_the_head_holds_everything_that_may_be_kept():
    entries = offers(range(500))
    room = 10 * len(encode(pixels(0))) / MIB
    first = head(((offer, number) for number, offer in enumerate(entries)), room)
    assert len(first) < 100
    of_head = draw(nothing(), [offer for offer, _n in first], lambda n: pixels(first[n][1]), room)
    assert of_head.equals(draw(nothing(), entries, pixels, room))


def test_an_entry_that_is_offered_again_is_one_entry():
    first = drawn(nothing(), range(5), 50)
    assert keys(drawn(first, range(5), 50)) == keys(first)
    assert drawn(first, range(3, 8), 50).num_rows == 8


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back_as_they_were(channels):
    entries = offers(range(3))
    sample = decode(draw(nothing(), entries, lambda n: pixels(n, channels), 1))
    order = sorted(range(3), key=lambda n: entries[n].key)
    for found, number in zip(sample.pixels, order, strict=True):
        np.testing.assert_array_equal(found, pixels(number, channels))


def test_each_label_has_its_half():
    numbers = list(range(100))
    both = offers(numbers[:90]) + offers(numbers[90:], ANOMALOUS)
    room = 20 * (len(encode(pixels(0))) + 8) / MIB
    kept = draw_of_each_label(nothing(), both, lambda n: pixels(numbers[n]), room)
    labels = kept.column("label").to_numpy()
    assert (labels == ANOMALOUS).sum() == 10
    assert 9 <= (labels == NORMAL).sum() <= 10
    for row in kept.to_pylist():  # the pixels are those of the offer of that name
        np.testing.assert_array_equal(
            decode(KEPT.schema.empty_table().from_pylist([row], KEPT.schema)).pixels[0], pixels(int(row["sha256"][3:]))
        )


def test_images_of_one_group_follow_each_other():
    listed = sorted((image_key(0, f"g{n % 3}", f"sha{n}"), n % 3) for n in range(12))
    order = [group for _key, group in listed]
    assert len([1 for a, b in pairwise(order) if a != b]) == 2


def test_what_is_used_otherwise_now_is_left_out_alone_or_with_its_group():
    kept = draw(nothing(), offers([1, 2], group="a") + offers([3], group="b"), lambda n: pixels(n), 1)
    assert sorted(without(kept, {"sha1"}, whole_groups=False).column("sha256").to_pylist()) == ["sha2", "sha3"]
    assert without(kept, {"sha1"}, whole_groups=True).column("sha256").to_pylist() == ["sha3"]
    assert without(kept, set(), whole_groups=True).num_rows == 3
    assert without(nothing(), {"sha1"}, whole_groups=True).num_rows == 0


def test_an_entry_that_is_no_png_is_named():
    row = {"key": "k", "sha256": "s", "label": 0, "kind": "normal", "group": "g", "pixels": b"no image"}
    with pytest.raises(DataError, match="holds an entry that is no PNG"):
        decode(KEPT.schema.empty_table().from_pylist([row], KEPT.schema))
