"""Magnetic tiles: kinds and masks from the folders, pictures of one tile in one group, empty masks by name alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vigil.config import MagneticTileData
from vigil.errors import DataError
from vigil.images.importing import import_data
from vigil.images.manifest import build_manifest
from vigil.images.raw import prepare_raw
from vigil.images.readers import ImageRow, read_rows
from vigil.images.readers.magnetic_tile import tiles

PRESET = Path(__file__).parents[3] / "presets" / "magnetic-tile.yaml"


def tile(root: Path, name: str, marked: bool) -> None:
    """An image and its mask, which is all zero unless `marked`; `name` is `<kind>/<stem>`."""
    kind, stem = name.split("/")
    folder = root / f"MT_{kind}" / "Imgs"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(list(folder.iterdir()))).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{stem}.jpg")
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[3:9, 4:12] = 255 * marked
    Image.fromarray(mask).save(folder / f"{stem}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    for name in ("Free/exp1_num_10", "Free/exp2_num_30", "Free/exp1_num_9000"):
        tile(folder, name, marked=False)
    tile(folder, "Crack/exp3_num_50", marked=True)
    return folder


def section(root: Path) -> MagneticTileData:
    return MagneticTileData(name="magnetic_tile", root=str(root))


def rows(root: Path) -> dict[str, ImageRow]:
    return {row.image_id: row for row in read_rows(section(root))}


def test_kinds_masks_and_tiles_come_from_folders_and_names(root: Path) -> None:
    found = rows(root)
    assert {k: (r.label, r.kind, r.mask_path, r.empty_mask) for k, r in found.items()} == {
        "MT_Crack/Imgs/exp3_num_50.jpg": (1, "crack", "MT_Crack/Imgs/exp3_num_50.png", False),
        "MT_Free/Imgs/exp1_num_10.jpg": (0, "normal", "MT_Free/Imgs/exp1_num_10.png", True),
        "MT_Free/Imgs/exp1_num_9000.jpg": (0, "normal", "MT_Free/Imgs/exp1_num_9000.png", True),
        "MT_Free/Imgs/exp2_num_30.jpg": (0, "normal", "MT_Free/Imgs/exp2_num_30.png", True),
    }
    one_tile = {"MT_Crack/Imgs/exp3_num_50.jpg", "MT_Free/Imgs/exp1_num_10.jpg", "MT_Free/Imgs/exp2_num_30.jpg"}
    assert {found[name].group for name in one_tile} == {"MT_Free/Imgs/exp1_num_10.jpg"}
    assert found["MT_Free/Imgs/exp1_num_9000.jpg"].group == "MT_Free/Imgs/exp1_num_9000.jpg"
    assert all(row.official_split is None for row in found.values())


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["exp1_num_100", "exp2_num_250"], 1),  # 150 frames: near
        (["exp1_num_100", "exp1_num_251"], 2),  # 151 frames, and the series does not go on
        (["exp3_num_100", "exp4_num_2100"], 1),  # an interrupted series goes on
        (["exp3_num_100", "exp4_num_2101"], 2),
        (["exp3_num_100", "exp5_num_2100"], 2),
        (["exp6_num_1000", "exp1_num_300", "exp2_num_320"], 2),  # in the order of frames, not of names
    ],
)
def test_pictures_of_one_tile_are_told_by_frame_and_setting(names: list[str], groups: int) -> None:
    assert len(set(tiles(names).values())) == groups


def test_an_empty_mask_of_a_defective_tile_is_told_when_it_is_imported_and_left_to_the_contract(
    root: Path, tmp_path: Path
) -> None:
    tile(root, "Uneven/exp1_num_70000", marked=False)
    name = "MT_Uneven/Imgs/exp1_num_70000.jpg"
    found = {row["image_id"]: row for row in build_manifest(section(root)).to_pylist()}
    assert (found[name]["fault"], found[name]["mask_pixels"]) == (None, 0)
    assert found["MT_Crack/Imgs/exp3_num_50.jpg"]["mask_pixels"] == 48
    assert found["MT_Free/Imgs/exp1_num_10.jpg"]["mask_path"] is None
    (warning,) = import_data("magnetic_tile", root, tmp_path / "raw").warnings
    assert warning == f"its mask is empty although it is defective (validate.empty_masks_allowed): {name}"


def test_a_mask_that_marks_a_normal_tile_is_a_fault(root: Path) -> None:
    tile(root, "Free/exp4_num_70", marked=True)
    faults = [fault for fault in build_manifest(section(root))["fault"].to_pylist() if fault]
    assert faults == [
        "MT_Free/Imgs/exp4_num_70.jpg: its mask MT_Free/Imgs/exp4_num_70.png marks something although the image is "
        "normal"
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("MT_Free/Imgs/exp1.jpg", r"MT_Free/Imgs/exp1.jpg: expected a name like exp1_num_12345.jpg"),
        ("MT_Free/Imgs/notes.txt", r"notes.txt: expected MT_<kind>/Imgs/<name>.jpg with its mask"),
        ("MT_Free/Imgs/old/exp1_num_7.jpg", r"expected MT_<kind>/Imgs/<name>.jpg with its mask"),
    ],
)
def test_a_file_out_of_the_layout_is_named(root: Path, path: str, message: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        rows(root)


def test_import_takes_the_images_alone_and_wants_a_mask_for_each(root: Path, tmp_path: Path) -> None:
    (root / "README.md").write_text("not an image")
    summary = import_data("magnetic_tile", root, tmp_path / "raw")
    assert (summary.counts, summary.masks) == ({"no official split": {"crack": 1, "normal": 3}}, 1)
    assert summary.warnings == ()
    assert not (tmp_path / "raw/README.md").exists()
    prepare_raw(section(tmp_path / "raw"))
    (root / "MT_Free/Imgs/exp1_num_10.png").unlink()
    with pytest.raises(DataError, match=r"4 images but 3 masks; .* see MT_Free/Imgs/exp1_num_10.png"):
        import_data("magnetic_tile", root, tmp_path / "raw")
    with pytest.raises(DataError, match=r"MT_Free/Imgs: no images found"):
        import_data("magnetic_tile", tmp_path / "raw/MT_Crack", tmp_path / "raw2")
