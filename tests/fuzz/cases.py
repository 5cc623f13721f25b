"""One function per kind of file: makes a small true one, damages it, and puts it through the code that reads it.

A case ends well (what was read is whole and can be used), or with a VigilError. Whatever else is the finding.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.fuzz.mutations import (
    Random,
    damaged,
    either,
    json_damaged,
    pick,
    png_damaged,
    reworded,
    tar_damaged,
    text_damaged,
)
from tests.tiny_bundle import write_tiny_bundle
from vigil.config import Cifar10Data, FolderData, PatchSection, SixrayData, SplitSection, ValidateSection, load_params
from vigil.delivery.bundle import load_bundle
from vigil.errors import DataError, VigilError
from vigil.files import digest_bytes, digest_file, digest_folder, digest_json
from vigil.images.archives import extract, read_batch
from vigil.images.extraction import extract_split
from vigil.images.importing import import_data
from vigil.images.importing_cifar10 import write_archives
from vigil.images.manifest import build_manifest
from vigil.images.preprocessing import preprocess
from vigil.images.readers import cifar10
from vigil.images.shards import PatchShards
from vigil.images.source import decode_image
from vigil.images.splitting import split_images
from vigil.networks.pair import load_pair
from vigil.records import MANIFEST, PATCH_INDEX, SPLIT_TABLE, TableType
from vigil.serving.screening import screen

PROJECT = Path(__file__).parents[2]
PATCH = PatchSection(channels=3, patch_size_px=32, stride_px=32, buckets=2, workers=1, regions_of_interest=True)
MAX_PIXELS = 1_000_000


# ------------------------------------------------------------------------------------------------------- true files


@cache
def picture(seed: int, form: str, side: int = 40) -> bytes:
    """An encoded image; `form` is format and mode, e.g. `PNG L`."""
    file_format, mode, *options = form.split()
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(buffer, format=file_format, **dict(option.split("=") for option in options))
    return buffer.getvalue()


FORMS = (
    *("PNG RGB", "PNG L", "PNG P", "PNG I;16", "PNG RGBA", "JPEG RGB", "JPEG L", "JPEG CMYK", "BMP RGB", "BMP L"),
    *("GIF P", "PPM RGB", "PPM L", "WEBP RGB", "TIFF RGB", "TIFF L compression=tiff_lzw"),
    *("TIFF RGB compression=tiff_adobe_deflate", "TIFF 1 compression=group4", "TIFF I;16", "TIFF RGB compression=jpeg"),
)


def strange_picture(random: Random) -> bytes:
    form = pick(random, FORMS)
    return either(random, picture(0, form), damaged, png_damaged if form.startswith("PNG") else damaged)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def use_manifest(data: Any, folder: Path) -> pa.Table:
    """Through the manifest and back, as the pipeline does."""
    MANIFEST.write(folder / "manifest.parquet", build_manifest(data, MAX_PIXELS))
    return MANIFEST.read(folder / "manifest.parquet")


def none_was_made(made: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns; if it refuses, nothing may be at `made`."""
    try:
        return work()
    except VigilError:
        assert not made.exists(), f"{made.name} was left behind"
        raise


# ---------------------------------------------------------------------------------------------------------- pictures


def image(random: Random, folder: Path) -> None:
    decoded = decode_image(strange_picture(random), "x", max_pixels=MAX_PIXELS)
    assert np.asarray(decoded).size
    preprocess(decoded, PATCH)


def imported_image(random: Random, folder: Path) -> None:
    for number in range(2):
        put(folder / f"in/normal/{number}.png", picture(number, "PNG RGB"))
    put(folder / "in/normal/strange.img", strange_picture(random))
    none_was_made(folder / "raw", lambda: import_data("folder", folder / "in", folder / "raw"))
    table = use_manifest(FolderData(name="folder", root=str(folder / "raw")), folder)
    assert table["fault"].null_count == 3, "imported, and then found at fault"


def mask(random: Random, folder: Path) -> None:
    """A damaged mask, or a damaged image, is a fault in the manifest; without one, its patches can be cut."""
    root = folder / "raw"
    for number in range(2):
        put(root / f"normal/{number}.png", picture(number, "PNG RGB"))
    put(root / "anomalous/dent/a.png", picture(0, "PNG RGB"))
    put(root / "masks/dent/a.png", strange_picture(random))
    table = use_manifest(FolderData(name="folder", root=str(root)), folder)
    assert table["fault"].null_count >= 2
    if table["fault"].null_count == 3:
        rows = table.select(["image_id", "label", "kind", "group"]).append_column("split", pa.array(["test"] * 3))
        splits = rows.select(SPLIT_TABLE.schema.names).cast(SPLIT_TABLE.schema)
        extract_split("test", table, splits, root, PATCH, folder / "patches")
        assert len(PatchShards.open(folder / "patches")) > 0


# -------------------------------------------------------------------------------------------------- annotations, lists

VOC = b"""<?xml version="1.0"?>
<annotation><folder>Annotation</folder><filename>P1.jpg</filename>
<size><width>48</width><height>40</height><depth>3</depth></size>
<object><name>Gun</name><pose>Unspecified</pose><bndbox><xmin>4</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
<object><name>knife</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>48</xmax><ymax>40</ymax></bndbox></object>
</annotation>
"""
BOMB = (
    b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    + b"]>"
)
LABELS = (
    b"name,Gun,Knife,Wrench,Pliers,Scissors,Hammer\nN1,-1,-1,-1,-1,-1,-1\nP1,1,-1,-1,-1,1,-1\nP2,-1,1,-1,-1,-1,-1\n"
)


def sixray_set(folder: Path, xml: bytes, labels: bytes) -> SixrayData:
    for number, name in enumerate(("N1", "P1", "P2")):
        put(folder / f"raw/JPEGImages/{name}.jpg", picture(number, "JPEG RGB"))
    put(folder / "raw/Annotation/P1.xml", xml)
    put(folder / "raw/labels/labels.csv", labels)
    return SixrayData(name="sixray", root=str(folder / "raw"))


def xml(random: Random, folder: Path) -> None:
    content = text_damaged(random, VOC)
    if random.random() < 0.1:
        content = BOMB + VOC.replace(b"Unspecified", b"&%c;" % pick(random, (97, 99, 106)))
    table = use_manifest(sixray_set(folder, content, LABELS), folder)
    assert table.num_rows == 3
    for row in table.to_pylist():
        assert row["fault"] or all(0 <= b["x0"] < b["x1"] <= 48 and 0 <= b["y0"] < b["y1"] <= 40 for b in row["boxes"])


def csv(random: Random, folder: Path) -> None:
    if random.random() < 0.5:
        table = use_manifest(sixray_set(folder, VOC, text_damaged(random, LABELS)), folder)
        assert table.num_rows == 3
        return
    data = sixray_set(folder, VOC, LABELS).model_copy(update={"image_set": 10})
    put(folder / "raw/ImageSet/10/train.csv", text_damaged(random, LABELS[: LABELS.rfind(b"P2")]))
    put(folder / "raw/ImageSet/10/test.csv", b"name,Gun,Knife\nP2,-1,1\n")
    assert 1 <= use_manifest(data, folder).num_rows <= 3


LISTING = (
    b"path,label,kind,mask,group,split\n"
    b"normal/0.png,normal,,,bag 1,train\n"
    b"normal/1.png,0,,,bag 1,train\n"
    b"anomalous/dent/a.png,anomalous,dent,masks/dent/a.png,,test\n"
    b'"normal/2.png",normal,,,,\n'
)


def listing(random: Random, folder: Path) -> None:
    """Imported with and without quarantine, from CSV and from Parquet."""
    for name, content in folder_set().items():
        put(folder / "in" / name, content)
    if random.random() < 0.6:
        path = put(folder / "in/list.csv", text_damaged(random, LISTING))
    else:
        header, *lines = LISTING.decode().replace('"', "").splitlines()
        rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
        path = folder / "in/list.parquet"
        table = pa.Table.from_pylist(rows)
        pq.write_table(table_damaged(random, table) if random.random() < 0.5 else table, path)
        if random.random() < 0.5:
            path.write_bytes(damaged(random, path.read_bytes()))
    quarantine = bool(random.integers(2))
    raw = folder / "raw"
    summary = none_was_made(raw, lambda: import_data("folder", folder / "in", raw, quarantine=quarantine, listing=path))
    table = use_manifest(FolderData(name="folder", root=str(raw), listing="listing.csv"), folder)
    assert table["fault"].null_count == table.num_rows == summary.images


# ---------------------------------------------------------------------------------------------------------- archives


@cache
def plain_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(("train/cat/0.png", "train/dog/1.png", "test/cat/" + "\u00e9" * 80 + ".png")):
            content = picture(number, "PNG RGB", 32)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PACKERS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, bz2.compress, lzma.compress)


def tar(random: Random, folder: Path) -> None:
    pack = pick(random, PACKERS)
    if random.random() < 0.6:
        content = pack(either(random, plain_tar(), tar_damaged, damaged))
    else:
        content = damaged(random, pack(plain_tar()))
    source = put(folder / "set.tar.x", content)
    summary = none_was_made(folder / "raw", lambda: import_data("cifar10", source, folder / "raw"))
    kinds = next(iter(next(iter(summary.counts.values()))))
    table = use_manifest(Cifar10Data(name="cifar10", root=str(folder / "raw"), held_class=kinds), folder)
    assert table["fault"].null_count == table.num_rows == summary.images


def tar_in_place(random: Random, folder: Path) -> None:
    """An imported archive that was damaged later: a fault of its images, or an error."""
    source = put(folder / "set.tar", plain_tar())
    root = folder / "raw"
    root.mkdir()
    write_archives(source, root)
    archive = root / "train.tar"
    archive.write_bytes(either(random, archive.read_bytes(), damaged, tar_damaged))
    use_manifest(Cifar10Data(name="cifar10", root=str(root), held_class="cat"), folder)


@cache
def zip_file(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for number, name in enumerate(("tile/train/good/0.png", "tile/test/good/1.png", "readme", "\u00e9/x")):
            opened.writestr(name, picture(number, "PNG RGB", 32))
    return buffer.getvalue()


def zip_archive(random: Random, folder: Path) -> None:
    method = pick(random, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    content = damaged(random, zip_file(method))
    if random.random() < 0.5:  # the directory at the end decides most
        middle = content.find(b"PK\x01\x02")
        content = zip_file(method)[:middle] + damaged(random, zip_file(method)[middle:])
    source = put(folder / "a/set.zip", content)
    out = folder / "b/out"
    out.mkdir(parents=True)
    try:
        extract(source, out, lambda path: path)
    finally:
        assert sorted(p.name for p in folder.iterdir()) == ["a", "b"], "something was written elsewhere"
        assert [p.name for p in (folder / "b").iterdir()] == ["out"], "something was written elsewhere"
        assert not any(path.is_symlink() for path in out.rglob("*")), "a link was made"


@cache
def batch(protocol: int, labels: str = "labels") -> bytes:
    value = {
        b"batch_label": b"training batch 1 of 5",
        labels.encode(): [0, 1, 2],
        b"data": np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8),
        b"filenames": [b"a.png", b"b.png", b"c.png"],
    }
    return pickle.dumps(value, protocol=protocol)


def pickled_batch(random: Random, folder: Path) -> None:
    content = batch(pick(random, (0, 2, 3, 4, 5)))
    place = content.find(b"data") % len(content)
    head = pick(random, (len(content), place + 200))
    content = damaged(random, content[:head]) + content[head:]
    if random.random() < 0.5:
        read_batch(content, "data_batch_1")
        return
    for name in ("data_batch_1", "test_batch"):
        put(folder / "in" / name, batch(2))
    put(folder / "in/data_batch_2", content)
    put(folder / "in/batches.meta", pickle.dumps({b"label_names": [c.encode() for c in cifar10.CLASSES]}, protocol=2))
    none_was_made(folder / "raw", lambda: import_data("cifar10", folder / "in", folder / "raw"))


# ------------------------------------------------------------------------------------------------------------- tables


@cache
def folder_set() -> dict[str, bytes]:
    return {
        **{f"normal/{number}.png": picture(number, "PNG RGB") for number in range(6)},
        "anomalous/dent/a.png": picture(6, "PNG RGB"),
        "anomalous/dent/b.png": picture(7, "PNG RGB"),
        "masks/dent/a.png": picture(8, "PNG L"),
        "masks/dent/b.png": picture(9, "PNG L"),
    }


def tables(folder: Path) -> tuple[Path, pa.Table, pa.Table]:
    """Root, manifest and splits of a small set."""
    for name, content in folder_set().items():
        put(folder / "raw" / name, content)
    root = folder / "raw"
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    return root, manifest, split_images(manifest, SplitSection())


STRANGE: dict[str, tuple[Any, ...]] = {
    "string": ("", "x", "../../../etc/passwd", "/etc/passwd", "normal", "train", "test", "a\0b", "n" * 400, "."),
    "int64": (-1, 0, 1, 7, 1 << 62, -(1 << 62)),
    "int32": (-1, 0, 1, 7, 31, (1 << 31) - 1, -(1 << 31)),
    "int8": (-1, 0, 1, 2, 127),
    "float": (float("nan"), float("inf"), -1.0, 0.0, 2.0),
}


def table_damaged(random: Random, table: pa.Table) -> pa.Table:
    """A table of the right columns with other values, in other rows, or with columns of another type."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    schema = table.schema
    for _ in range(int(random.integers(1, 4))):
        name = pick(random, schema.names)
        field = schema.field(name)
        row = int(random.integers(len(columns[name]))) if columns[name] else 0
        match int(random.integers(8)):
            case 0:
                columns = {key: values[:row] for key, values in columns.items()}
            case 1:
                columns = {key: [*values, *values[row:]] for key, values in columns.items()}
            case 2:
                schema = schema.set(schema.get_field_index(name), field.with_nullable(True))
                columns[name][row : row + 1] = [None]
            case 3 if len(schema) > 1:
                schema = schema.remove(schema.get_field_index(name))
            case 4 if str(field.type) == "string":
                other = pa.field(
                    name, pick(random, (pa.binary(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())))
                )
                schema = schema.set(schema.get_field_index(name), other)
            case _:
                strange = STRANGE.get(str(field.type))
                if strange and columns[name]:
                    columns[name][row] = pick(random, strange)
        columns = {key: columns[key] for key in schema.names}
        lengths = {len(values) for values in columns.values()}
        columns = {key: values[: min(lengths)] for key, values in columns.items()}
    return pa.table({k: pa.array(v, schema.field(k).type) for k, v in columns.items()}, schema=schema)


def table_written(random: Random, kind: TableType, table: pa.Table, path: Path) -> None:
    """A damaged table under the name and version of a true one; half of the time a damaged file."""
    metadata = {"vigil.table": kind.name, "vigil.version": str(kind.version)}
    if random.random() < 0.5:
        pq.write_table(table_damaged(random, table).replace_schema_metadata(metadata), path)
    else:
        kind.write(path, table)
        path.write_bytes(damaged(random, path.read_bytes()))


def manifest_table(random: Random, folder: Path) -> None:
    """Through everything that reads the manifest."""
    root, manifest, _ = tables(folder)
    table_written(random, MANIFEST, manifest, folder / "manifest.parquet")
    read = MANIFEST.read(folder / "manifest.parquet")
    splits = split_images(read, SplitSection())
    SPLIT_TABLE.write(folder / "splits.parquet", splits)
    for split in ("train", "test"):
        extract_split(split, read, SPLIT_TABLE.read(folder / "splits.parquet"), root, PATCH, folder / split)
        assert len(PatchShards.open(folder / split)) > 0


def validated_manifest(random: Random, folder: Path) -> None:
    from vigil.images.validation import validate_manifest

    root, manifest, _ = tables(folder)
    table_written(random, MANIFEST, manifest, folder / "manifest.parquet")
    read = MANIFEST.read(folder / "manifest.parquet")
    settings = ValidateSection(min_normal_images=2, quarantine=bool(random.integers(2)))
    accepted = validate_manifest(read, settings, root, folder / "report")
    assert accepted["fault"].null_count == accepted.num_rows


def split_table(random: Random, folder: Path) -> None:
    root, manifest, splits = tables(folder)
    table_written(random, SPLIT_TABLE, splits, folder / "splits.parquet")
    read = SPLIT_TABLE.read(folder / "splits.parquet")
    extract_split("test", manifest, read, root, PATCH, folder / "test")
    assert len(PatchShards.open(folder / "test")) > 0


# ------------------------------------------------------------------------------------------------------------- shards


@cache
def shards_made() -> dict[str, bytes]:
    """The files of a split's folder, and its raw set and tables."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root, manifest, splits = tables(folder)
        MANIFEST.write(folder / "manifest.parquet", manifest)
        SPLIT_TABLE.write(folder / "splits.parquet", splits)
        extract_split("test", manifest, splits, root, PATCH, folder / "test")
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def shards_damaged(random: Random, folder: Path) -> Path:
    for name, content in shards_made().items():
        put(folder / name, content)
    path = pick(random, sorted(p for p in (folder / "test").iterdir()))
    content = path.read_bytes()
    if path.suffix == ".json":
        if random.random() < 0.5:
            path.write_text(json.dumps(json_damaged(random, json.loads(content))))
        else:
            path.write_bytes(text_damaged(random, content))
    elif path.suffix == ".parquet":
        table_written(random, PATCH_INDEX, PATCH_INDEX.read(path), path)
    else:
        head = pick(random, (128, len(content)))
        path.write_bytes(damaged(random, content[:head]) + content[head:])
    if random.random() < 0.1:
        path.unlink()
    return folder / "test"


def shard(random: Random, folder: Path) -> None:
    """Opened and read in full."""
    shards = PatchShards.open(shards_damaged(random, folder))
    rows = np.arange(len(shards))
    assert shards.read(rows).shape == (len(rows), shards.patch_size, shards.patch_size, shards.channels)
    assert shards.index.num_rows == len(rows)
    assert shards.digest
    assert len(shards.rows_of("grid")) <= len(rows)
    if shards.has_masks:
        shards.read_masks(rows)


def shard_healed(random: Random, folder: Path) -> None:
    """The next run of the stage makes it whole again, to the byte."""
    made = digest_folder_of(shards_made())
    broken = shards_damaged(random, folder)
    manifest, splits = MANIFEST.read(folder / "manifest.parquet"), SPLIT_TABLE.read(folder / "splits.parquet")
    extract_split("test", manifest, splits, folder / "raw", PATCH, broken)
    assert digest_folder(broken) == made, "the stage kept what was damaged"


def digest_folder_of(files: dict[str, bytes]) -> str:
    names = sorted(name for name in files if name.startswith("test/"))
    return digest_json([[name.removeprefix("test/"), digest_bytes(files[name])] for name in names])


# ----------------------------------------------------------------------------------------------------- params, bundles


@cache
def params_files() -> tuple[bytes, ...]:
    return tuple(p.read_bytes() for p in (PROJECT / "params.yaml", *sorted((PROJECT / "presets").glob("*.yaml"))))


def params(random: Random, folder: Path) -> None:
    content = text_damaged(random, pick(random, params_files()))
    name = "params.yaml"
    if random.random() < 0.1:
        lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else 'x'}]" for i in range(9)]
        content = "\n".join([*lines, "split: {seed: *k8}"]).encode()
    elif random.random() < 0.2:
        from ruamel.yaml import YAML

        name = "params.json"
        value = json_damaged(random, YAML(typ="safe", pure=True).load(params_files()[0]))
        content = either(random, json.dumps(value).encode(), lambda _, c: c, text_damaged)
    load_params(put(folder / name, content)).model_dump_json()


@cache
def bundle_made() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_tiny_bundle(Path(scratch) / "bundle")
        folder = Path(scratch) / "bundle"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def bundle(random: Random, folder: Path) -> None:
    """Damaged at rest, or changed and sealed again by somebody who knows the format."""
    target = folder / "bundle"
    for name, content in bundle_made().items():
        put(target / name, content)
    path = target / pick(random, sorted(bundle_made()))
    resealed = random.random() < 0.6
    if path.suffix == ".json" and resealed:
        path.write_text(json.dumps(json_damaged(random, json.loads(path.read_bytes()))))
    else:
        path.write_bytes(
            either(random, path.read_bytes(), damaged, text_damaged if path.suffix == ".json" else damaged)
        )
    if resealed:
        seal(target)
    loaded = none_was_made(folder / "nothing", lambda: load_bundle(target))
    picture_path = put(folder / "x.png", picture(0, "PNG L"))
    for result in screen(loaded, [picture_path], heat_map_folder=folder / "maps"):
        assert (result.score is None) == (result.verdict == "REJECTED")


def seal(target: Path) -> None:
    """Writes all checksums anew, as far as the documents still have places for them."""
    pair = json.loads((target / "pair/pair.json").read_bytes()) if (target / "pair/pair.json").is_file() else None
    if isinstance(pair, dict) and isinstance(pair.get("sha256"), dict):
        for name in list(pair["sha256"]):
            if isinstance(name, str) and (target / f"pair/{name}.safetensors").is_file():
                pair["sha256"][name] = digest_file(target / f"pair/{name}.safetensors")
        pair = {k: v for k, v in pair.items() if k != "seal"}
        value = {**pair, "seal": digest_json(pair)}
        text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (target / "pair/pair.json").write_text(text)
    record = json.loads((target / "bundle.json").read_bytes())
    if isinstance(record, dict):
        if isinstance(record.get("files"), dict):
            for name in list(record["files"]):
                if (target / name).is_file():
                    record["files"][name] = digest_file(target / name)
        record = {k: v for k, v in record.items() if k != "digest"}
        record["digest"] = digest_json(record)
        (target / "bundle.json").write_text(json.dumps(record))


def pair(random: Random, folder: Path) -> None:
    target = folder / "pair"
    for name, content in bundle_made().items():
        if name.startswith("pair/"):
            put(folder / name, content)
    path = pick(random, sorted(target.iterdir()))
    if path.suffix == ".json":
        path.write_bytes(either(random, path.read_bytes(), damaged, text_damaged, reworded))
    else:
        head = pick(random, (400, path.stat().st_size))
        content = path.read_bytes()
        path.write_bytes(damaged(random, content[:head]) + content[head:])
    if random.random() < 0.5:
        document = json.loads((target / "pair.json").read_bytes()) if path.suffix != ".json" else None
        if document:
            document["sha256"][path.stem] = digest_file(path)
            sealed = {k: v for k, v in document.items() if k != "seal"}
            text = json.dumps({**sealed, "seal": digest_json(sealed)}, sort_keys=True, indent=2, ensure_ascii=False)
            (target / "pair.json").write_text(text + "\n")
    load_pair(target)


def screened(random: Random, folder: Path) -> None:
    """A damaged image never stops a screening, and is never normal without a score."""
    target = folder / "bundle"
    for name, content in bundle_made().items():
        put(target / name, content)
    paths = [put(folder / "in/a.png", strange_picture(random)), put(folder / "in/b.png", picture(0, "PNG L"))]
    results = list(screen(opened_bundle(), paths, heat_map_folder=folder / "maps"))
    assert [r.path for r in results] == paths
    assert results[1].verdict != "REJECTED"
    if results[0].verdict == "REJECTED":
        assert results[0].reason
        raise DataError(results[0].reason)
    assert results[0].score is not None
    assert np.isfinite(results[0].score)


@cache
def opened_bundle() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_tiny_bundle(Path(scratch) / "bundle")
        return load_bundle(Path(scratch) / "bundle")


KINDS: dict[str, tuple[Callable[[Random, Path], None], float]] = {
    "image": (image, 0.08),
    "image, imported": (imported_image, 0.05),
    "image, screened": (screened, 0.05),
    "mask": (mask, 0.05),
    "XML": (xml, 0.09),
    "CSV": (csv, 0.06),
    "listing": (listing, 0.06),
    "tar, imported": (tar, 0.09),
    "tar, in place": (tar_in_place, 0.04),
    "zip": (zip_archive, 0.07),
    "CIFAR-10 batch": (pickled_batch, 0.06),
    "Parquet, manifest": (manifest_table, 0.05),
    "Parquet, validated": (validated_manifest, 0.01),
    "Parquet, splits": (split_table, 0.04),
    "shard": (shard, 0.06),
    "shard, healed": (shard_healed, 0.03),
    "params": (params, 0.06),
    "bundle": (bundle, 0.03),
    "pair": (pair, 0.02),
}
"""Kind -> what a case does, and its share of all cases."""


def clean(folder: Path) -> None:
    """Removes what a case left."""
    shutil.rmtree(folder, ignore_errors=True)
