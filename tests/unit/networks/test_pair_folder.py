"""The pair's folder: round trip, equal bytes, and every kind of damage refused."""

import json
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from tests.unit.networks.test_network_shapes import SMALL, small
from vigil.errors import CheckpointError
from vigil.files import digest_file, digest_folder
from vigil.networks.pair import PairSpec, build_pair, load_pair, save_pair
from vigil.networks.weights_folder import write_weights_folder

SPEC = PairSpec(channels=1, patch_size_px=32, model=SMALL)
FILES = ["discriminator.safetensors", "generator.safetensors", "pair.json"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair") / "pair"
    save_pair(folder, build_pair(SPEC, 1), {"seed": 1, "note": "a – b"})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pair")


def rewrite(copy, change):
    """Writes the folder anew after `change(content, parts)`, with sound checksums."""
    sealed = json.loads((copy / "pair.json").read_text())
    parts = {n: safetensors.torch.load_file(copy / f"{n}.safetensors") for n in ("generator", "discriminator")}
    version = change(sealed["content"], parts) or 1
    write_weights_folder(copy, "pair", version, sealed["content"], parts)


def test_a_loaded_pair_equals_the_saved_one(saved):
    pair, record = load_pair(saved)
    assert record == {"seed": 1, "note": "a – b"}
    assert pair.spec == SPEC
    assert not pair.generator.training
    assert not pair.discriminator.training
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        expected, found = build_pair(SPEC, 1).eval().outputs(x), pair.outputs(x)
    assert all(torch.equal(a, b) for a, b in zip(expected[:3], found[:3], strict=True))


def test_loading_leaves_the_global_random_state_alone(saved):
    before = torch.get_rng_state()
    load_pair(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_equal_pairs_give_equal_bytes_also_from_another_process(saved, tmp_path):
    assert sorted(p.name for p in saved.iterdir()) == FILES
    code = (
        "import sys; from pathlib import Path; from vigil.networks.pair import *\n"
        "spec = PairSpec.model_validate_json(sys.argv[1])\n"
        "save_pair(Path(sys.argv[2]), build_pair(spec, 1), {'note': 'a – b', 'seed': 1})"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, SPEC.model_dump_json(), tmp_path / "again"], check=True)
    assert digest_folder(tmp_path / "again") == digest_folder(saved)


def test_a_pair_read_back_and_saved_again_keeps_its_bytes(saved, tmp_path):
    save_pair(tmp_path / "again", *load_pair(saved))
    assert digest_folder(tmp_path / "again") == digest_folder(saved)


@pytest.mark.parametrize("file", FILES)
def test_one_changed_byte_anywhere_is_refused(copy, file):
    path = copy / file
    content = path.read_bytes()
    for position in (0, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match=file):
            load_pair(copy)


@pytest.mark.parametrize("wrong", [r'"\ud800"', "NaN", "Infinity"])
def test_a_document_with_half_a_character_or_no_number_is_refused(copy, wrong):
    document = copy / "pair.json"
    text = document.read_text()
    document.write_text(text.replace('"a – b"', wrong))
    assert document.read_text() != text
    with pytest.raises(CheckpointError, match=r"pair\.json: not a pair file"):
        load_pair(copy)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_refused(copy, file):
    content = (copy / file).read_bytes()
    for length in (0, len(content) // 2, len(content) - 1):
        (copy / file).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=file):
            load_pair(copy)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused(copy, file):
    (copy / file).unlink()
    with pytest.raises(CheckpointError, match=rf"{file}: file not found"):
        load_pair(copy)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="file not found"):
        load_pair(tmp_path / "nowhere")


def test_an_unknown_version_is_refused(copy):
    rewrite(copy, lambda content, parts: 2)
    with pytest.raises(CheckpointError, match="expected 'pair' version 1, found 'pair' version 2"):
        load_pair(copy)


def test_weights_of_the_wrong_shape_are_refused(copy):
    rewrite(copy, lambda content, parts: content["spec"]["model"].update(base_width=6))
    with pytest.raises(CheckpointError, match=r"generator.safetensors.*expected float32\[6, 1, 3, 3\]"):
        load_pair(copy)


def test_missing_and_unknown_tensors_are_refused(copy):
    def change(content, parts):
        parts["discriminator"]["extra"] = parts["discriminator"].pop("verdict.bias")

    rewrite(copy, change)
    with pytest.raises(CheckpointError, match=r"'verdict.bias' is missing; 'extra' is unknown"):
        load_pair(copy)


def test_a_spec_that_breaks_a_rule_is_refused(copy):
    rewrite(copy, lambda content, parts: content["spec"].update(patch_size_px=33))
    with pytest.raises(CheckpointError, match=r"patch_size_px.*found 33"):
        load_pair(copy)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    pair = build_pair(SPEC, 1)
    with torch.no_grad():
        pair.generator.output.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"'output\.bias' holds values that are not finite"):
        save_pair(tmp_path / "pair", pair, {})
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_the_old_folder_whole(copy):
    before = digest_file(copy / "generator.safetensors")
    (copy / "stray").write_text("old")
    save_pair(copy, build_pair(SPEC, 2), {})
    assert sorted(p.name for p in copy.iterdir()) == FILES
    assert digest_file(copy / "generator.safetensors") != before
    assert [p.name for p in copy.parent.iterdir()] == ["pair"]


def test_a_depth_that_does_not_fit_the_patch_is_refused():
    with pytest.raises(ValueError, match=r"patch_size_px \(32\) is not a multiple of 2\*\*model.depth \(64\)"):
        PairSpec(channels=1, patch_size_px=32, model=small(depth=6))


def test_more_rows_without_skips_than_levels_are_refused():
    with pytest.raises(ValueError, match=r"outer_rows_without_skips \(3\) is larger than model.depth \(2\)"):
        PairSpec(channels=1, patch_size_px=32, model=small(outer_rows_without_skips=3))
