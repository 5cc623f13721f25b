"""The loop as a whole: budget, record, and a resumed run that equals an uninterrupted one bit for bit."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.unit.training.make_patches import SPEC, train_section, write_patches
from vigil.config import LossWeights, MemorySection, SelfSupervisionSection
from vigil.errors import CheckpointError, ConfigError, TrainingDiverged
from vigil.images.shards import PatchShards
from vigil.training import loop
from vigil.training.loop import train_candidate
from vigil.training.recorder import TIMINGS, MemoryRecorder

PROJECT = Path(__file__).parents[3]
POINTING = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"pointing": True, "pointing_width": 4})})
POINTING_ALONE = POINTING.model_copy(update={"model": POINTING.model.model_copy(update={"pointing_sees": "patch"})})
TURNING = SPEC.model_copy(
    update={"model": SPEC.model.model_copy(update={"self_supervision": SelfSupervisionSection(enabled=True, width=8)})}
)
TRAIN = train_section()  # 10 patches, 2 epochs, batches of 4: 20 images, an epoch ends inside the third batch


class Stop(Exception):
    """Ends a run from within, as a kill would."""


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def uninterrupted(patches, tmp_path_factory):
    recorder = MemoryRecorder()
    pair = train_candidate(SPEC, TRAIN, 7, patches, tmp_path_factory.mktemp("work"), recorder)
    return pair, recorder.steps


@pytest.fixture
def one_thread():
    """One thread for this test; the sums of other tests' runs depend on their number to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stop_after(monkeypatch):
    """A function that makes the run stop after so many generator steps."""

    def arm(steps):
        real, done = loop.training_step, []

        def counted(*args):
            if len(done) == steps:
                raise Stop
            done.append(1)
            return real(*args)

        monkeypatch.setattr(loop, "training_step", counted)
        return lambda: monkeypatch.setattr(loop, "training_step", real)

    return arm


def weights(pair):
    networks = {"generator": pair.generator, "discriminator": pair.discriminator}
    return {f"{n}.{k}": t for n, network in networks.items() for k, t in network.state_dict().items()}


def moving(pair):
    """All but the spectral norm's left vector of the one-output layer, which is 1 or -1."""
    return {k: t for k, t in weights(pair).items() if t.numel() > 1 or not k.endswith("_u")}


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert len(a) > 20
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def without_timings(steps):
    return [{k: v for k, v in dataclasses.asdict(s).items() if k not in TIMINGS} for s in steps]


def checkpoints(work):
    return sorted(p.name for p in work.glob("*/checkpoint-*"))


def test_a_run_uses_its_budget_and_records_every_interval(uninterrupted):
    pair, steps = uninterrupted
    assert [s.images_seen for s in steps] == [8, 16, 20]
    assert not pair.generator.training
    zero = ("eta_s", "pointing_loss", "self_supervised_loss")
    assert all(v > 0 for s in steps for k, v in dataclasses.asdict(s).items() if k not in zero)
    assert steps[-1].eta_s == 0


def test_training_moves_every_weight(uninterrupted):
    trained, fresh = moving(uninterrupted[0]), moving(loop.build_pair(SPEC, 7))
    assert [k for k in trained if torch.equal(trained[k], fresh[k])] == []


def test_equal_arguments_give_equal_weights_and_other_seeds_do_not(uninterrupted, patches, tmp_path):
    assert_same_weights(train_candidate(SPEC, TRAIN, 7, patches, tmp_path / "a", MemoryRecorder()), uninterrupted[0])
    other = moving(train_candidate(SPEC, TRAIN, 8, patches, tmp_path / "b", MemoryRecorder()))
    first = moving(uninterrupted[0])
    assert not any(torch.equal(other[k], first[k]) for k in first)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_weights_and_record(steps, uninterrupted, patches, tmp_path, stop_after):
    disarm = stop_after(steps)
    with pytest.raises(Stop):
        train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
    assert checkpoints(tmp_path) == (["checkpoint-000000000012"] if steps >= 3 else [])
    disarm()
    recorder = MemoryRecorder()
    assert_same_weights(train_candidate(SPEC, TRAIN, 7, patches, tmp_path, recorder), uninterrupted[0])
    assert without_timings(recorder.steps) == without_timings(uninterrupted[1])
    assert checkpoints(tmp_path) == ["checkpoint-000000000020"]


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("steps", [2, 4])
def test_a_stopped_restoring_and_pointing_run_goes_on_exactly_too(steps, silent, patches, tmp_path, stop_after):
    """`silent`: the generator does not listen to the verdict, so that the rest of the discriminator never moves."""
    spec = POINTING_ALONE if silent else POINTING
    weights_ = {"adversarial": 0.0, "latent": 0.0} if silent else {}
    train = train_section(
        objective="restore",
        schedule="linear",
        quarter_turns=True,
        weights=weights_,
        generator_share=0.3 if silent else 1.0,
        photometric_share=0.6 if silent else 0.0,
    )
    whole, resumed = MemoryRecorder(), MemoryRecorder()
    expected = train_candidate(spec, train, 7, patches, tmp_path / "whole", whole)
    disarm = stop_after(steps)
    with pytest.raises(Stop):
        train_candidate(spec, train, 7, patches, tmp_path, MemoryRecorder())
    disarm()
    assert_same_weights(train_candidate(spec, train, 7, patches, tmp_path, resumed), expected)
    assert without_timings(resumed.steps) == without_timings(whole.steps)
    assert all(step.pointing_loss > 0 for step in whole.steps)
    fresh, trained = moving(loop.build_pair(spec, 7)), moving(expected)
    still = {k for k in trained if torch.equal(trained[k], fresh[k])}
    verdict = {k for k in trained if k.startswith("discriminator.") and ".pointing." not in k}
    assert still == (verdict if silent else set())


@pytest.mark.parametrize("steps", [2, 4])
def test_a_stopped_self_supervised_run_goes_on_exactly_too(steps, patches, tmp_path, stop_after):
    train = train_section(weights={"adversarial": 0.0, "latent": 0.0}, generator_share=0.3)
    whole, resumed = MemoryRecorder(), MemoryRecorder()
    expected = train_candidate(TURNING, train, 7, patches, tmp_path / "whole", whole)
    disarm = stop_after(steps)
    with pytest.raises(Stop):
        train_candidate(TURNING, train, 7, patches, tmp_path, MemoryRecorder())
    disarm()
    assert_same_weights(train_candidate(TURNING, train, 7, patches, tmp_path, resumed), expected)
    assert without_timings(resumed.steps) == without_timings(whole.steps)
    assert all(step.self_supervised_loss > 0 == step.discriminator_loss for step in whole.steps)
    fresh, trained = moving(loop.build_pair(TURNING, 7)), moving(expected)
    still = {k for k in trained if torch.equal(trained[k], fresh[k])}
    assert still == {k for k in trained if k.startswith("discriminator.") and ".self_supervision." not in k}


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"precision": "bf16-mixed"}])
def test_other_optimisers_and_precisions_resume_exactly_too(changes, patches, tmp_path, stop_after):
    train = train_section(**changes)
    whole = train_candidate(SPEC, train, 7, patches, tmp_path / "whole", MemoryRecorder())
    disarm = stop_after(4)
    with pytest.raises(Stop):
        train_candidate(SPEC, train, 7, patches, tmp_path / "parts", MemoryRecorder())
    disarm()
    assert_same_weights(train_candidate(SPEC, train, 7, patches, tmp_path / "parts", MemoryRecorder()), whole)


def test_a_finished_run_is_read_back_and_its_record_handed_over_again(uninterrupted, patches, tmp_path, stop_after):
    train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
    stop_after(0)
    recorder = MemoryRecorder()
    assert_same_weights(train_candidate(SPEC, TRAIN, 7, patches, tmp_path, recorder), uninterrupted[0])
    assert without_timings(recorder.steps) == without_timings(uninterrupted[1])


KILLED = """
import sys, time
from pathlib import Path
from tests.unit.training.make_patches import SPEC, train_section
from vigil.images.shards import PatchShards
from vigil.training import loop
from vigil.training.recorder import JsonlRecorder
if sys.argv[3] == "slow":
    real = loop.training_step
    def slowed(*args):
        print("step", flush=True)
        time.sleep(0.05)
        return real(*args)
    loop.training_step = slowed
train = train_section(epochs=6, log_every_images=4, checkpoint_every_images=4)
patches = PatchShards.open(Path(sys.argv[1]))
loop.train_candidate(SPEC, train, 7, patches, Path(sys.argv[2]), JsonlRecorder(Path(sys.argv[2], "r.jsonl")))
"""


def test_a_run_that_is_killed_again_and_again_ends_like_an_uninterrupted_one(one_thread, patches, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{PROJECT}", "OMP_NUM_THREADS": "1"}

    def start(mode):
        command = [sys.executable, "-W", "error", "-c", KILLED, str(patches.folder), str(tmp_path), mode]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    for kill_after in (3, 5):  # steps of that process; the pause falls anywhere between two saves
        process = start("slow")
        for _ in range(kill_after):
            assert process.stdout.readline() == "step\n"
        time.sleep(0.06)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert checkpoints(tmp_path) not in ([], ["checkpoint-000000000060"])
    train = train_section(epochs=6, log_every_images=4, checkpoint_every_images=4)
    recorder, uninterrupted_recorder = MemoryRecorder(), MemoryRecorder()
    resumed = train_candidate(SPEC, train, 7, patches, tmp_path, recorder)
    whole = train_candidate(SPEC, train, 7, patches, tmp_path / "whole", uninterrupted_recorder)
    assert_same_weights(resumed, whole)
    assert without_timings(recorder.steps) == without_timings(uninterrupted_recorder.steps)
    assert [s.images_seen for s in recorder.steps] == list(range(4, 61, 4))


def test_other_data_or_settings_start_in_a_folder_of_their_own(patches, tmp_path):
    train_candidate(SPEC, TRAIN, 7, patches, tmp_path / "work", MemoryRecorder())
    train_candidate(SPEC, train_section(learning_rate=1e-3), 7, patches, tmp_path / "work", MemoryRecorder())
    other = write_patches(tmp_path / "other", seed=1)
    train_candidate(SPEC, TRAIN, 7, other, tmp_path / "work", MemoryRecorder())
    assert len(list((tmp_path / "work").iterdir())) == 3


def test_a_checkpoint_of_another_run_is_refused_by_name(patches, tmp_path):
    train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
    (folder,) = tmp_path.iterdir()
    other = loop.make_plan(SPEC, train_section(learning_rate=1e-3), 8, patches, tmp_path).folder
    folder.rename(other)
    expected = r"belongs to another run: seed was 7, is 8; train.learning_rate was 0.0002, is 0.001. Delete .* to train"
    with pytest.raises(CheckpointError, match=expected):
        train_candidate(SPEC, train_section(learning_rate=1e-3), 8, patches, tmp_path, MemoryRecorder())


def test_a_truncated_checkpoint_is_refused(patches, tmp_path):
    train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
    files = sorted(tmp_path.glob("*/checkpoint-*/*"))
    names = ["discriminator", "discriminator_optimizer", "generator", "generator_optimizer"]
    assert [p.name for p in files] == ["checkpoint.json", *(f"{n}.safetensors" for n in names)]
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(CheckpointError, match=rf"{path.name}: .*Delete .* and make it anew"):
            train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
        path.write_bytes(content)


def test_what_a_killed_save_left_behind_is_removed(patches, tmp_path):
    folder = loop.make_plan(SPEC, TRAIN, 7, patches, tmp_path).folder
    leftover = folder / ".checkpoint-000000000012.aside-99"
    leftover.mkdir(parents=True)
    (leftover / "generator.safetensors").write_text("half")
    train_candidate(SPEC, TRAIN, 7, patches, tmp_path, MemoryRecorder())
    assert [p.name for p in folder.iterdir()] == ["checkpoint-000000000020"]


def test_a_diverging_run_stops_with_place_and_advice_and_saves_nothing(patches, tmp_path):
    train = train_section(optimizer="sgd", learning_rate=1e30, betas=(0.0, 0.9))
    with pytest.raises(TrainingDiverged, match=r"after \d+ of 20 images: .* step: expected finite .*learning_rate"):
        train_candidate(SPEC, train, 7, patches, tmp_path, MemoryRecorder())
    assert checkpoints(tmp_path) == []


def test_a_discriminator_at_chance_is_warned_about_once(patches, tmp_path, caplog):
    train = train_section(learning_rate=1e-12, log_every_images=4)
    with caplog.at_level(logging.INFO, "vigil"):
        train_candidate(SPEC, train, 7, patches, tmp_path, MemoryRecorder())
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "within 0.005 of 2 ln 2 = 1.386" in warnings[0]
    lines = [r.getMessage() for r in caplog.records if "images/s" in r.getMessage()]
    assert len(lines) == 5
    assert lines[0].startswith("step 1, 4/20 images, D 1.38")


def test_flips_are_drawn_from_the_seed_and_the_images_seen(patches, tmp_path, monkeypatch):
    seen = {}

    def batches(flip):
        seen[flip] = []

        def keep(pixels, device="cpu"):
            seen[flip].append(pixels.copy())
            return real(pixels, device)

        real = loop.to_tensor
        with monkeypatch.context() as patch:
            patch.setattr(loop, "to_tensor", keep)
            train_candidate(SPEC, train_section(horizontal_flip=flip), 7, patches, tmp_path, MemoryRecorder())

    batches(False)
    batches(True)
    mirrored = []
    for plain, flipped in zip(seen[False], seen[True], strict=True):
        for a, b in zip(plain, flipped, strict=True):
            is_mirror = bool((a[:, ::-1] == b).all())
            assert is_mirror or (a == b).all()
            mirrored.append(is_mirror)
    assert 0 < sum(mirrored) < len(mirrored) == 20


def test_two_processes_compute_what_one_computes(patches, tmp_path, caplog):
    train = train_section(devices=2, epochs=0.8)
    recorder = MemoryRecorder()
    with caplog.at_level(logging.INFO, "vigil"):
        two = train_candidate(SPEC, train, 7, patches, tmp_path, recorder)
    one_recorder = MemoryRecorder()
    one = train_candidate(SPEC, train_section(epochs=0.8), 7, patches, tmp_path, one_recorder)
    assert [s.images_seen for s in recorder.steps] == [s.images_seen for s in one_recorder.steps] == [8]
    assert any("8/8 images" in r.getMessage() for r in caplog.records)
    # Gradients are sums of the same terms in another order, and Adam's first steps divide them by their own size.
    a, b = recorder.steps[0], one_recorder.steps[0]
    assert a.contextual_loss == pytest.approx(b.contextual_loss, rel=1e-4)
    assert a.discriminator_loss == pytest.approx(b.discriminator_loss, rel=1e-4)
    for key, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[key], tensor, rtol=0, atol=1e-3, msg=key)


def test_an_error_in_one_of_several_processes_keeps_its_type_and_text(patches, tmp_path):
    train = train_section(devices=2, optimizer="sgd", learning_rate=1e30, betas=(0.0, 0.9))
    with pytest.raises(TrainingDiverged, match=r"after \d+ of 20 images: .* step: expected finite"):
        train_candidate(SPEC, train, 7, patches, tmp_path, MemoryRecorder())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, r"train.batch_size \(4\) is not a multiple of train.devices \(3\)"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(changes, message, patches, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train_candidate(SPEC, train_section(**changes), 7, patches, tmp_path / "work", MemoryRecorder())
    assert not (tmp_path / "work").exists()


def test_a_pair_that_points_needs_something_to_point_at(patches, tmp_path):
    with pytest.raises(ConfigError, match=r"there is nothing to point at; set train.objective to 'restore'"):
        train_candidate(POINTING, TRAIN, 7, patches, tmp_path / "work", MemoryRecorder())
    assert not (tmp_path / "work").exists()


def test_patches_of_another_size_are_refused(patches, tmp_path):
    spec = SPEC.model_copy(update={"patch_size_px": 64})
    with pytest.raises(ConfigError, match="the pair is for patches of 64 px and 1 channels, the shards hold 32 px"):
        train_candidate(spec, TRAIN, 7, patches, tmp_path, MemoryRecorder())


def test_shards_reopened_from_disk_are_the_same_run(patches, uninterrupted, tmp_path):
    reopened = PatchShards.open(patches.folder)
    assert_same_weights(train_candidate(SPEC, TRAIN, 7, reopened, tmp_path, MemoryRecorder()), uninterrupted[0])


def test_weights_do_not_depend_on_what_is_read_of_a_trained_pair_alone(patches, tmp_path):
    model = POINTING_ALONE.model.model_copy(update={"pointing_views": 4, "memory": MemorySection(enabled=True)})
    train = train_section(objective="restore", weights=LossWeights(pointing=1.0))
    plain, remembering = (
        train_candidate(spec, train, 7, patches, tmp_path / name, MemoryRecorder())
        for name, spec in (("plain", POINTING_ALONE), ("more", POINTING_ALONE.model_copy(update={"model": model})))
    )
    assert (plain.has_memory, remembering.has_memory) == (False, True)
    assert_same_weights(plain, remembering)
