import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from vigil.config import (
    AttentionSection,
    MemorySection,
    ModelSection,
    PatchSection,
    ScoreSection,
    SelfSupervisionSection,
)
from vigil.errors import ConfigError, ScoreNotFinite
from vigil.files import digest_bytes, digest_folder
from vigil.images.extraction import extract_split
from vigil.images.shards import PatchShards
from vigil.networks.memory import Memory
from vigil.networks.pair import Pair, PairSpec, build_pair, load_pair, save_pair
from vigil.records import MANIFEST, PATCH_SCORES, SPLIT_TABLE
from vigil.scoring.scorer import device_of, pair_digest, score_patches, score_split, with_stitched_peaks
from vigil.seeding import numpy_generator

SPEC = PairSpec(
    channels=1,
    patch_size_px=32,
    model=ModelSection(
        base_width=4, depth=2, max_width=16, discriminator_width=8, feature_channels=8,
        attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
    ),
)  # fmt: skip


EXTENDED = SPEC.model_copy(
    update={"model": SPEC.model.model_copy(update={"self_supervision": SelfSupervisionSection(enabled=True, width=8)})}
)


@pytest.fixture(scope="module", params=["paper", "discriminator", "self_supervision"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """As the paper has it, or with a self-supervised trunk and a memory (random: nothing here needs a fitted one)."""
    if request.param == "paper":
        return build_pair(SPEC, seed=0)
    return with_memory(build_pair(EXTENDED, seed=0), request.param)


def with_memory(pair: Pair, features: str) -> Pair:
    model = pair.spec.model.model_copy(update={"memory": MemorySection(enabled=True, features=features)})
    pair.spec = pair.spec.model_copy(update={"model": model})
    pair.memory = Memory(model, pair.discriminator)
    random = torch.Generator().manual_seed(1)
    for buffer in pair.memory.buffers():
        buffer.normal_(generator=random)
    return pair


def random_patches(count: int, channels: int = 1) -> np.ndarray:
    return numpy_generator(0, "scorer test").integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)


def score(pair: Pair, patches: np.ndarray, batch_size: int = 8):  # type: ignore[no-untyped-def]
    return score_patches(pair, patches, device="cpu", batch_size=batch_size)


def test_components_have_the_promised_form(pair: Pair) -> None:
    scored = score(pair, random_patches(11))
    found = scored.arrays()
    more = [] if pair.memory is None else ["self_supervision", "memory"]
    assert list(found) == ["contextual", "latent", "map_peak", "maps", *more]
    assert [found[n].shape for n in found] == [(11,), (11,), (11,), (11, 32, 32), *[(11,) for _ in more]]
    assert [found[n].dtype == np.float64 for n in found] == [True, True, True, False, *[True for _ in more]]
    assert [*scored.columns()] == ["contextual", "latent", "map_peak", *more]
    assert np.array_equal(scored.map_peak, scored.maps.max(axis=(1, 2)).astype(np.float64))
    assert len(np.unique(scored.contextual)) == len(np.unique(scored.latent)) == 11
    assert min(scored.contextual.min(), scored.latent.min(), scored.maps.min()) >= 0


def test_a_patch_scores_the_same_bits_alone_in_any_order_and_with_any_neighbours(pair: Pair) -> None:
    patches = random_patches(21)
    together = score(pair, patches)
    order = numpy_generator(1, "scorer test").permutation(21)
    shuffled = score(pair, patches[order])
    extreme = np.concatenate([patches[:1], np.full((7, 32, 32, 1), 255, np.uint8), np.zeros((9, 32, 32, 1), np.uint8)])
    beside_extremes = score(pair, extreme)
    for name, values in together.arrays().items():
        assert np.array_equal(getattr(shuffled, name), values[order]), name
        assert np.array_equal(getattr(beside_extremes, name)[0], values[0]), name
        for number in (0, 7, 20):
            assert np.array_equal(getattr(score(pair, patches[number : number + 1]), name)[0], values[number]), name


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_another_batch_size_moves_no_score_by_more_than_1e_6(pair: Pair, batch_size: int) -> None:
    patches = random_patches(21)
    others = score(pair, patches, batch_size).arrays()
    for one, other in zip(score(pair, patches).arrays().values(), others.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_evaluation_mode_is_set_by_the_scorer_and_the_former_mode_comes_back(pair: Pair) -> None:
    patches = random_patches(5)
    before = {k: v.clone() for k, v in pair.discriminator.state_dict().items()}
    pair.train()
    in_training = score(pair, patches)
    assert pair.generator.training
    assert pair.discriminator.training
    pair.eval()
    in_evaluation = score(pair, patches)
    assert not pair.generator.training
    assert np.array_equal(in_training.latent, in_evaluation.latent)
    assert all(torch.equal(before[k], v) for k, v in pair.discriminator.state_dict().items())  # spectral norms too
    assert all(p.grad is None for p in pair.generator.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_weights_that_are_no_numbers_raise_and_never_score_low(part: str, value: float) -> None:
    broken = build_pair(SPEC, seed=0)
    network = getattr(broken, part)
    with torch.no_grad():
        if part == "generator":
            network.output.bias.fill_(float("nan"))  # tanh would make an infinite bias finite
        else:
            next(p for n, p in network.last.named_parameters() if n.endswith("bias")).fill_(value)
    with pytest.raises(ScoreNotFinite, match="patch 0: its"):
        score(broken, random_patches(3))


def test_a_missing_gpu_is_an_error_and_auto_is_not() -> None:
    assert device_of("cpu").type == "cpu"
    assert device_of("auto").type in {"cpu", "cuda"}
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            device_of("cuda")


def test_pair_digest_follows_weights_and_spec_and_survives_the_disk(pair: Pair, tmp_path: Path) -> None:
    save_pair(tmp_path / "pair", pair, {})
    assert pair_digest(load_pair(tmp_path / "pair")[0]) == pair_digest(pair)
    assert pair_digest(build_pair(SPEC, seed=1)) != pair_digest(pair)


# ------------------------------------------------------------------------------------------------------------- splits


def write_split(
    root: Path, folder: Path, count: int, stride_px: int = 32, boxes: tuple[dict[str, Any], ...] = ()
) -> PatchShards:
    """`count` noise images of 40x32 px, of which every third is anomalous, cut into patches, and at these boxes."""
    rows = []
    for number in range(count):
        pixels = numpy_generator(number, "scored image").integers(0, 256, (40, 32), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        path = root / f"image-{number}.png"
        root.mkdir(exist_ok=True)
        path.write_bytes(encoded.getvalue())
        rows.append({
            "image_id": path.name, "path": path.name, "offset": None, "bytes": len(encoded.getvalue()),
            "sha256": digest_bytes(encoded.getvalue()), "width": 32, "height": 40, "mode": "L",
            "label": int(number % 3 == 0), "kind": "scratch" if number % 3 == 0 else "normal", "group": path.name,
            "official_split": None, "mask_path": None, "boxes": list(boxes) if number % 3 == 0 else [], "fault": None,
        })  # fmt: skip
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST.schema)
    split = [{**{k: r[k] for k in ("image_id", "label", "kind", "group")}, "split": "test"} for r in rows]
    splits = pa.Table.from_pylist(split, schema=SPLIT_TABLE.schema)
    patch = PatchSection(
        channels=1, patch_size_px=32, stride_px=stride_px, buckets=4, workers=1, regions_of_interest=bool(boxes)
    )
    extract_split("test", manifest, splits, root, patch, folder)
    return PatchShards.open(folder)


SCORE = ScoreSection(batch_size=4, device="cpu")


def test_score_split_writes_components_in_the_order_of_the_index(pair: Pair, tmp_path: Path) -> None:
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 12)
    score_split(pair, shards, tmp_path / "test.parquet", tmp_path / "maps", SCORE)
    table = PATCH_SCORES.read(tmp_path / "test.parquet")
    assert table.num_rows == len(shards) == 24
    assert table.column("patch_id").to_pylist() == shards.index.column("patch_id").to_pylist()
    direct = score(pair, shards.read(np.arange(24)), 4)
    assert table.column_names[len(PATCH_SCORES.schema.names) :] == list(direct.columns())[3:]
    for name, values in direct.columns().items():
        assert np.array_equal(table.column(name).to_numpy(), values)
    stored = np.concatenate([np.load(tmp_path / "maps" / f"bucket-{b:04d}.npy") for b in shards.buckets])
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, direct.maps, rtol=1e-3)


POINTING = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"pointing": True, "pointing_width": 4})})


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_score_split_stitches_the_patches_of_each_image_however_batches_cut_it(batch_size: int, tmp_path: Path) -> None:
    pair = build_pair(POINTING, seed=0)
    # Two patches each, one half over the other.
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 9, stride_px=16)
    section = ScoreSection(batch_size=batch_size, device="cpu")
    score_split(pair, shards, tmp_path / "test.parquet", tmp_path / "maps", section)
    table = PATCH_SCORES.read(tmp_path / "test.parquet").to_pandas()
    assert table["image_id"].nunique() == 9
    moved = []
    for _, image in table.groupby("image_id"):
        positions = image[["y", "x"]].to_numpy()
        found = score(pair, shards.read(image.index.to_numpy()), batch_size)
        assert np.array_equal(image["stitched_peak"], with_stitched_peaks(found, [positions]).stitched_peak)
        assert len(positions) == 2
        alone = [
            with_stitched_peaks(score(pair, own[None], batch_size), [np.zeros((1, 2), int)]).stitched_peak
            for own in shards.read(image.index)
        ]
        moved.append(np.abs(image["stitched_peak"] - np.concatenate(alone)).max())
        assert np.array_equal(found.alone().stitched_peak, np.concatenate(alone))
    assert np.median(moved) > 1e-4  # more than rounding; the surest square may lie where no other patch sees it


def test_a_region_of_interest_is_scored_as_a_patch_without_neighbours(tmp_path: Path) -> None:
    pair = build_pair(POINTING, seed=0)
    box = {"kind": "scratch", "x0": 2, "y0": 6, "x1": 26, "y1": 30}
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 6, stride_px=16, boxes=(box,))
    score_split(pair, shards, tmp_path / "test.parquet", tmp_path / "maps", SCORE)
    table = PATCH_SCORES.read(tmp_path / "test.parquet").to_pandas()
    regions = table[table["source"] == "roi"]
    assert len(regions) == 2
    alone = score(pair, shards.read(regions.index.to_numpy()), SCORE.batch_size).alone()
    assert np.array_equal(regions["stitched_peak"], alone.stitched_peak)
    # Nor do regions move what the grid says of its images.
    without = write_split(tmp_path / "raw", tmp_path / "grid alone", 6, stride_px=16)
    score_split(pair, without, tmp_path / "grid.parquet", tmp_path / "grid maps", SCORE)
    grid = table[table["source"] == "grid"].set_index("patch_id")["stitched_peak"]
    assert (
        grid.to_dict()
        == PATCH_SCORES.read(tmp_path / "grid.parquet").to_pandas().set_index("patch_id")["stitched_peak"].to_dict()
    )


def test_images_of_one_batch_are_stitched_apart() -> None:
    pair, patches = build_pair(POINTING, seed=0), random_patches(5)
    positions = [np.array([[0, 0], [8, 0], [16, 0]]), np.array([[0, 0], [0, 16]])]
    together = with_stitched_peaks(score(pair, patches), positions).stitched_peak
    of_images = zip((patches[:3], patches[3:]), positions, strict=True)
    apart = [with_stitched_peaks(score(pair, own), [places]).stitched_peak for own, places in of_images]
    assert np.array_equal(together, np.concatenate(apart))
    plain = score(build_pair(SPEC, seed=0), patches)
    assert with_stitched_peaks(plain, positions).stitched_peak is None


def test_a_killed_run_is_continued_and_ends_with_the_bytes_of_a_whole_one(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 12)
    score_split(pair, shards, tmp_path / "whole.parquet", tmp_path / "whole", SCORE)
    assert len(shards.buckets) > 2

    calls = 0
    original = PatchShards.read

    def dies(self: PatchShards, rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(self, rows)

    monkeypatch.setattr(PatchShards, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        score_split(pair, shards, tmp_path / "killed.parquet", tmp_path / "killed", SCORE)
    assert not (tmp_path / "killed.parquet").exists()
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.parquet")}
    assert 0 < len(finished) < len(shards.buckets)
    monkeypatch.undo()

    (tmp_path / "killed" / ".bucket-0000.npy.aside-1").write_bytes(b"left by a kill")
    (tmp_path / "killed" / "bucket-4000.npy").write_bytes(b"of a bucket that is gone")
    score_split(pair, shards, tmp_path / "killed.parquet", tmp_path / "killed", SCORE)
    assert digest_folder(tmp_path / "killed") == digest_folder(tmp_path / "whole")
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())  # kept, not scored again


def test_only_what_changed_is_scored_again(pair: Pair, tmp_path: Path) -> None:
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 12)
    maps = tmp_path / "maps"
    score_split(pair, shards, tmp_path / "test.parquet", maps, SCORE)
    before = {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}
    score_split(pair, shards, tmp_path / "test.parquet", maps, SCORE)
    assert before == {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}

    grown = write_split(tmp_path / "raw", tmp_path / "patches", 13)
    score_split(pair, grown, tmp_path / "test.parquet", maps, SCORE)
    touched = {p.name for p in maps.iterdir() if before.get(p.name) != p.stat().st_mtime_ns}
    assert len(touched) == 2  # maps and record of the one bucket that the new image went to
    assert PATCH_SCORES.read(tmp_path / "test.parquet").num_rows == 26

    damaged = sorted(maps.glob("*.npy"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    score_split(pair, grown, tmp_path / "again.parquet", maps, SCORE)
    assert damaged.read_bytes() != bytes(content)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "test.parquet").read_bytes()

    other = {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}
    score_split(build_pair(SPEC, seed=5), grown, tmp_path / "test.parquet", maps, SCORE)
    assert all(other[p.name] != p.stat().st_mtime_ns for p in maps.iterdir())


def test_scores_that_meant_something_else_are_made_anew(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, maps = write_split(tmp_path / "raw", tmp_path / "patches", 4), tmp_path / "maps"
    with monkeypatch.context() as earlier:
        earlier.setattr("vigil.scoring.scorer.FORMAT_VERSION", 1)
        score_split(pair, shards, tmp_path / "test.parquet", maps, SCORE)
    before = {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}
    score_split(pair, shards, tmp_path / "test.parquet", maps, SCORE)
    assert len(before) > 0
    assert all(before[p.name] != p.stat().st_mtime_ns for p in maps.iterdir())


def test_a_split_with_a_broken_pair_leaves_no_table(tmp_path: Path) -> None:
    shards = write_split(tmp_path / "raw", tmp_path / "patches", 3)
    broken = build_pair(SPEC, seed=0)
    with torch.no_grad():
        broken.generator.output.bias.fill_(float("nan"))
    with pytest.raises(ScoreNotFinite, match=r"patches image-\d\.png@0,0 to"):
        score_split(broken, shards, tmp_path / "test.parquet", tmp_path / "maps", SCORE)
    assert not (tmp_path / "test.parquet").exists()
    assert list((tmp_path / "maps").iterdir()) == []
