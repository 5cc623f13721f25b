"""Screening files: the pipeline's own scores, a verdict for every file, and nothing passed over in silence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_bundle import MODEL, encoded, grey_image, tiny_calibration, write_tiny_bundle
from tests.tiny_systems import BASELINES, tiny_pair
from vigil.config import FolderData, PatchSection, ScoreSection, SplitSection
from vigil.delivery.bundle import Bundle, load_bundle
from vigil.images.extraction import extract_split
from vigil.images.manifest import build_manifest
from vigil.images.shards import PatchShards
from vigil.images.splitting import split_images
from vigil.networks.pair import PairSpec, build_pair, save_pair
from vigil.records import PATCH_SCORES
from vigil.scoring.reduction import image_scores, images_of
from vigil.scoring.scorer import score_split
from vigil.serving.screening import Screening, expanded, heat_map_name, screen


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("screening") / "bundle"
    write_tiny_bundle(folder)
    return load_bundle(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four good images of several sizes, in two folders."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.png", "more/a.png", "more/c.JPG")):
        grey_image(index, width=40 + 9 * index).save(folder / name)
    return folder


def run(bundle: Bundle, *paths: Path, **options: object) -> list[Screening]:
    return list(screen(bundle, paths, device="cpu", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_screened_scores_equal_the_pipelines(tmp_path: Path, channels: int) -> None:
    """The same images through manifest, split, patch and score, and through screening: equal to the last bit."""
    root = tmp_path / "raw"
    for kind, first in (("normal", 0), ("anomalous/dent", 20)):
        (root / kind).mkdir(parents=True)
        for index in range(first, first + 12):
            image = grey_image(index, width=60 + index, height=50)
            suffix = ("png", "jpg", "bmp")[index % 3]
            (image.convert("RGB") if index % 2 else image).save(root / kind / f"{index}.{suffix}")
    patch = PatchSection(channels=channels, shorter_side_px=44, patch_size_px=32, stride_px=16, buckets=3, workers=1)  # type: ignore[arg-type]
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    splits = split_images(manifest, SplitSection(test_fraction=0.5))
    extract_split("test", manifest, splits, root, patch, tmp_path / "patches")
    pair = build_pair(PairSpec(channels=channels, patch_size_px=32, model=MODEL), 3)  # type: ignore[arg-type]
    shards = PatchShards.open(tmp_path / "patches")
    score_split(pair, shards, tmp_path / "scores.parquet", tmp_path / "maps", ScoreSection(batch_size=16, device="cpu"))
    scored = images_of(PATCH_SCORES.read(tmp_path / "scores.parquet"))
    calibration = tiny_calibration()
    expected = image_scores(calibration.patch_scores(scored.components), scored.patch_image, calibration.reduction)

    save_pair(tmp_path / "pair", pair, {})
    write_tiny_bundle(tmp_path / "bundle", pair=tmp_path / "pair", patch=patch, calibration=calibration)
    found = run(load_bundle(tmp_path / "bundle"), *(root / name for name in scored.ids), batch_size=16)
    assert len(found) == len(expected) >= 12
    assert [result.score for result in found] == expected.tolist()


@pytest.mark.parametrize("name", BASELINES)
def test_a_bundle_of_every_baseline_screens(tmp_path: Path, images: Path, name: str) -> None:
    """By its own score, the same alone as among others, and with a map."""
    save_pair(tmp_path / "pair", tiny_pair(name), {})
    calibration = tiny_calibration(score="published", eta=None)
    write_tiny_bundle(tmp_path / "bundle", pair=tmp_path / "pair", calibration=calibration)
    opened = load_bundle(tmp_path / "bundle")
    together = run(opened, images, heat_map_folder=tmp_path / "maps")
    alone = [run(opened, result.path)[0] for result in together]
    assert [result.score for result in together] == [result.score for result in alone]
    assert len({result.score for result in together}) == 4
    assert all(result.verdict in {"NORMAL", "ANOMALOUS"} and result.heat_map is not None for result in together)


def test_no_file_stops_the_rest(bundle: Bundle, images: Path) -> None:
    (images / "c.jpg").write_bytes(encoded(grey_image(0), "JPEG")[:200])
    (images / "d.tif").write_bytes(encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "TIFF"))
    (images / "e.png").symlink_to(images / "nowhere.png")
    (images / "notes.txt").write_text("not taken from a folder")
    found = run(bundle, images, images / "missing.png", images / "notes.txt")
    shown = {str(r.path.relative_to(images)): r for r in found}
    assert list(shown) == [
        "a.png", "b.png", "c.jpg", "d.tif", "e.png", "more/a.png", "more/c.JPG", "missing.png", "notes.txt",
    ]  # fmt: skip
    rejected = {name: r.reason for name, r in shown.items() if r.verdict == "REJECTED"}
    assert set(rejected) == {"c.jpg", "d.tif", "e.png", "missing.png", "notes.txt"}
    assert "truncated" in str(rejected["c.jpg"])
    assert "16 bits" in str(rejected["d.tif"])
    assert rejected["missing.png"] == "missing.png: cannot be read (No such file or directory)"
    assert all(r.score is None for r in found if r.verdict == "REJECTED")
    assert all(r.score is not None and r.reason is None for r in found if r.verdict != "REJECTED")


def test_a_pipe_is_rejected_and_not_waited_for(bundle: Bundle, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (found,) = run(bundle, tmp_path / "pipe.png")
    assert found.reason == "pipe.png: cannot be read (not a file)"


def test_every_order_gives_every_file_its_own_result(bundle: Bundle, images: Path) -> None:
    (images / "bad.png").write_bytes(b"")
    one = {r.path: (r.verdict, r.score) for r in run(bundle, images, batch_size=4)}
    paths = sorted(expanded([images]), reverse=True)
    for order in (paths, paths[2:] + paths[:2]):
        other = run(bundle, *order, batch_size=4)
        assert [r.path for r in other] == list(order)
        assert {r.path: (r.verdict, r.score) for r in other} == one


def test_heat_maps_are_pictures_twice_as_wide_one_per_screened_file(bundle: Bundle, images: Path) -> None:
    (images / "bad.png").write_bytes(b"")
    out = images / "out"
    found = run(bundle, images, heat_map_folder=out)
    pictures = [r.heat_map for r in found if r.heat_map is not None]
    assert len(pictures) == 4
    assert sorted(pictures) == sorted(out.iterdir())
    for result in found:
        if result.heat_map is None:
            assert result.verdict == "REJECTED"
            continue
        with Image.open(result.heat_map) as picture, Image.open(result.path) as image:
            assert picture.format == "PNG"
            factor = picture.height // image.height
            assert picture.size == (2 * image.width * factor + 8, image.height * factor)
    assert heat_map_name(images / "a.png") != heat_map_name(images / "more" / "a.png")
    assert [r.path for r in run(bundle, images, heat_map_folder=out)] == [r.path for r in found]


def test_regions_are_where_the_map_exceeds_the_bundles_level(tmp_path: Path, images: Path) -> None:
    for level, expected in ((0.0, 1), (1e9, 0)):
        write_tiny_bundle(tmp_path / "b", map_level=level)
        (found,) = run(load_bundle(tmp_path / "b"), images / "a.png")
        assert len(found.regions) == expected
    assert expected == 0


def test_results_are_json(bundle: Bundle, images: Path) -> None:
    (images / "bad.png").write_bytes(b"")
    for result in run(bundle, images, heat_map_folder=images / "out"):
        again = json.loads(json.dumps(result.as_json(), allow_nan=False))
        assert again["path"] == str(result.path)
        assert again["score"] == result.score
        assert len(again["regions"]) == len(result.regions)


def test_results_come_before_all_files_are_read(bundle: Bundle, images: Path) -> None:
    paths = [images / "a.png"] * 3 + [images / "later.png"]
    results = screen(bundle, iter(paths), device="cpu", batch_size=2)
    next(results)
    grey_image(9).save(images / "later.png")  # would be REJECTED had it been read before
    assert [r.verdict != "REJECTED" for r in results] == [True, True, True]


def test_folders_are_expanded_once_even_through_links(images: Path) -> None:
    (images / "again").symlink_to(images)
    (images / "linked").symlink_to(images / "more")
    elsewhere = images.with_name("elsewhere")
    elsewhere.mkdir()
    grey_image(0).save(elsewhere / "z.png")
    (images / "out").symlink_to(elsewhere)
    found = [p.resolve() for p in expanded([images])]
    assert len(found) == len(set(found)) == 5
    assert list(expanded([images / "missing"])) == [images / "missing"]
