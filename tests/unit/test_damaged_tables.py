"""Files that cross a stage, damaged in ways that a fuzz test has found: each refusal names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vigil.config import SixrayData, load_params
from vigil.errors import CheckpointError, ConfigError, DataError
from vigil.files import digest_json, read_json
from vigil.images.readers import sixray
from vigil.images.source import resolve_below
from vigil.networks.weights_folder import read_weights_folder
from vigil.records import SPLIT_TABLE

METADATA = {"vigil.table": "splits", "vigil.version": "1"}


def splits(**changes: pa.Array) -> pa.Table:
    columns = {name: pa.array(["a", "b"]) for name in ("image_id", "split", "kind", "group")}
    return pa.table({**columns, "label": pa.array([0, 1], pa.int8()), **changes}).select(SPLIT_TABLE.schema.names)


def test_a_table_with_other_columns_under_the_right_name_is_refused(tmp_path: Path) -> None:
    for table in (
        splits().drop_columns("kind"),
        splits(kind=pa.array([1, 2])),
        splits(kind=pa.array(["a", None])),
        splits().append_column("more", pa.array([1, 2])),
    ):
        pq.write_table(table.replace_schema_metadata(METADATA), tmp_path / "s.parquet")
        with pytest.raises(DataError, match=r"s.parquet: not a readable Parquet file \(its columns are not those of"):
            SPLIT_TABLE.read(tmp_path / "s.parquet")


def test_a_table_whose_text_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    SPLIT_TABLE.write(path, splits(group=pa.array(["needle", "b"])))
    pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"needle", b"nee\xffle"))
    with pytest.raises(DataError, match=r"s.parquet: not a readable Parquet file \(.*UTF8"):
        SPLIT_TABLE.read(path)


def test_a_name_that_is_no_utf8_is_another_name(tmp_path: Path) -> None:
    pq.write_table(splits().replace_schema_metadata({b"vigil.table": b"\xff"}), tmp_path / "s.parquet")
    with pytest.raises(DataError, match="expected table 'splits' version 1, found"):
        SPLIT_TABLE.read(tmp_path / "s.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.yaml", b"data: \xff\xfe"),
        ("p.yaml", b"a: " + b"[" * 2_000),
        ("p.yaml", b"a: 2020-13-45"),
        ("p.yaml", b"? [a, b]\n: 1"),
        ("p.json", b"[" * 200_000),
        ("p.json", b'{"a": ' + b"9" * 5_000 + b"}"),
    ],
)
def test_a_params_file_that_cannot_be_understood_is_a_config_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_params(tmp_path / name)


def test_a_folder_in_place_of_a_params_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as UTF-8 text"):
        load_params(tmp_path)


def test_a_value_of_gigabytes_is_not_shown_in_full(tmp_path: Path) -> None:
    lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else 'x'}]" for i in range(7)]
    (tmp_path / "p.yaml").write_text("\n".join([*lines, "split: {seed: *k6}"]))
    with pytest.raises(ConfigError, match=r"split.seed: Input should be a valid integer, found \[\[") as caught:
        load_params(tmp_path / "p.yaml")
    assert len(str(caught.value)) < 20_000


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="not a JSON file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "pair.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not a pair file"):
        read_weights_folder(tmp_path, "pair", 1)


@pytest.mark.parametrize("part", ["content", "sha256"])
def test_a_sealed_document_whose_parts_are_no_objects_is_refused(tmp_path: Path, part: str) -> None:
    sealed = {"kind": "pair", "version": 1, "content": {}, "sha256": {}, part: 1}
    text = json.dumps({**sealed, "seal": digest_json(sealed)}, sort_keys=True, indent=2) + "\n"
    (tmp_path / "pair.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a pair file"):
        read_weights_folder(tmp_path, "pair", 1)


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file can have this name"):
        resolve_below(tmp_path, "a\0b")


def test_a_header_of_megabytes_is_not_shown_in_full(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.csv").write_text("- " * 50_000 + "\n")
    with pytest.raises(DataError, match="expected the columns name,Gun,Knife") as caught:
        list(sixray.read(SixrayData(name="sixray", root=str(tmp_path))))
    assert len(str(caught.value)) < 1_000
