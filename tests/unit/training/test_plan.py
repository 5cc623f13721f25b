"""Budget, device and precision, settled before a run."""

import shutil
from pathlib import Path

import pytest
import torch

import vigil
from tests.unit.training.make_patches import SPEC, train_section, write_patches
from vigil.config import Candidate
from vigil.errors import ConfigError
from vigil.training.plan import code_digest, make_plan, resolve_device, resolve_precision


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.mark.parametrize(
    ("epochs", "batch", "images"), [(1, 4, 12), (2, 4, 20), (0.5, 5, 5), (0.01, 4, 4), (1, 64, 64)]
)
def test_the_budget_is_epochs_times_patches_in_whole_batches(patches, tmp_path, epochs, batch, images):
    assert make_plan(SPEC, train_section(epochs=epochs, batch_size=batch), 0, patches, tmp_path).total_images == images


def test_runs_are_named_by_what_fixes_their_weights(patches, tmp_path):
    def name(seed=0, **changes):
        return make_plan(SPEC, train_section(**changes), seed, patches, tmp_path).folder

    assert name() == name(candidates=(Candidate(name="a"), Candidate(name="b")))
    assert name() == name(device="auto") or torch.cuda.is_available()
    others = [name(seed=1), name(learning_rate=1e-3), name(epochs=3.0), name(precision="bf16-mixed")]
    assert len({name(), *others}) == 5


@pytest.mark.parametrize(
    ("changed", "same"),
    [({"memory": {"enabled": True}}, True), ({"pointing_views": 4}, True), ({"pointing": True}, False)],
)
def test_what_is_read_of_a_trained_pair_alone_does_not_name_the_run(patches, tmp_path, changed, same):
    model = SPEC.model.model_dump() | changed
    other = SPEC.model_validate(SPEC.model_dump() | {"model": model})
    train = train_section(objective="restore")
    runs = [make_plan(spec, train, 0, patches, tmp_path).folder for spec in (SPEC, other)]
    assert (runs[0] == runs[1]) is same


def test_changed_code_makes_another_run(tmp_path):
    package = shutil.copytree(Path(vigil.__file__).parent, tmp_path / "vigil", ignore=shutil.ignore_patterns("*.pyc"))
    before = code_digest(package)
    assert before == code_digest(Path(vigil.__file__).parent)
    (package / "scoring" / "unrelated.py").write_text("")
    assert code_digest(package) == before
    for name in ("networks/blocks.py", "training/steps.py", "images/dataset.py", "seeding.py"):
        text = (package / name).read_text()
        (package / name).write_text(text + "\n")
        assert code_digest(package) != before
        (package / name).write_text(text)


def test_auto_precision_is_bf16_exactly_where_the_cpu_has_it(monkeypatch):
    train = train_section(precision="auto")
    for capabilities, expected in [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_f": True}, "32-true"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert resolve_precision(train, "cpu") == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve_precision(train, "cpu") == "32-true"
    assert resolve_precision(train_section(precision="bf16-mixed"), "cpu") == "bf16-mixed"


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(train_section(device="auto")) == "cpu"
    with pytest.raises(ConfigError, match=r"train.device is 'cuda' with train.devices = 1, but this machine has 0"):
        resolve_device(train_section(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device(train_section(device="auto")) == "cuda"
    assert resolve_device(train_section(device="cpu", devices=2)) == "cpu"
    with pytest.raises(ConfigError, match=r"train.devices = 2, but this machine has 1"):
        resolve_device(train_section(device="auto", devices=2))
