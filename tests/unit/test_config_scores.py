"""The rules that tie scores to the parts of a pair that they need."""

import pytest

from vigil.config import Params, parse_params
from vigil.errors import ConfigError

TRUNK = {"self_supervision": {"enabled": True}}


def params(model: object = None, train: object = None, calibrate: object = None) -> Params:
    data = {"name": "digits", "root": "data/raw/digits", "held_class": "0"}
    patch = {"patch_size_px": 32, "stride_px": 32}
    sections = {"model": model or {}, "train": train or {}, "calibrate": calibrate or {}}
    return parse_params({"data": data, "patch": patch, **sections})


def test_what_is_off_by_default() -> None:
    found = params()
    assert not found.model.memory.enabled
    assert not found.model.self_supervision.enabled
    assert (found.score.stamped_patches, found.calibrate.score) == (0, "eq6")


@pytest.mark.parametrize("score", ["memory", "self_supervision"])
def test_a_score_needs_its_part_of_the_pair_in_every_candidate(score: str) -> None:
    with pytest.raises(ConfigError, match=f"needs model.{score}.enabled"):
        params(calibrate={"score": score})
    assert params(model={score: {"enabled": True}}, calibrate={"score": score}).calibrate.score == score
    candidates = [{"name": "without", "overrides": {f"model.{score}.enabled": False}}]
    with pytest.raises(ConfigError, match="candidate 'without'"):
        params(model={score: {"enabled": True}}, train={"candidates": candidates}, calibrate={"score": score})


def test_a_stitched_peak_needs_a_pair_that_points() -> None:
    stitched = {"score": "stitched_peak"}
    with pytest.raises(ConfigError, match=r"'stitched_peak', which needs model\.pointing"):
        params(train={"objective": "restore"}, calibrate=stitched)
    made = params(model={"pointing": True}, train={"objective": "restore"}, calibrate=stitched)
    assert made.calibrate.score == "stitched_peak"


def test_a_memory_of_a_trunk_needs_the_trunk() -> None:
    memory = {"memory": {"enabled": True, "features": "self_supervision"}}
    with pytest.raises(ConfigError, match=r"set self_supervision\.enabled to true"):
        params(model=memory)
    assert params(model=memory | TRUNK).model.memory.features == "self_supervision"


def test_a_small_share_for_the_generator_needs_another_task() -> None:
    with pytest.raises(ConfigError, match=r"train\.generator_share is 0\.25"):
        params(train={"generator_share": 0.25})
    assert params(model=TRUNK, train={"generator_share": 0.25}).train.generator_share == 0.25


def test_groups_of_channels_must_fit() -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        params(model={"self_supervision": {"enabled": True, "width": 12}})


def test_a_baseline_is_scored_by_its_own_score_and_the_papers_pair_is_not() -> None:
    assert params(model={"name": "egbad"}, calibrate={"score": "published"}).calibrate.score == "published"
    assert params(model={"name": "ganomaly"}).calibrate.score == "eq6"
    with pytest.raises(
        ConfigError, match=r"calibrate\.score is 'published', which model\.name 'dense_skip_gan'.*'eq6'"
    ):
        params(calibrate={"score": "published"})
    for name in ("unet_autoencoder", "patch_svdd"):
        with pytest.raises(ConfigError, match=rf"calibrate\.score is 'eq6', which model\.name '{name}'.*'published'"):
            params(model={"name": name})


@pytest.mark.parametrize(("key", "value"), [("objective", "restore"), ("adversarial", "wasserstein_gp")])
def test_a_baseline_is_trained_as_it_was_published(key: str, value: str) -> None:
    assert getattr(params(train={key: value}).train, key) == value
    with pytest.raises(ConfigError, match=rf"train\.{key} is '{value}', which model\.name 'dagan' does not have"):
        params(model={"name": "dagan"}, train={key: value})


def test_a_baseline_has_no_teacher() -> None:
    with pytest.raises(ConfigError, match=r"train\.teacher is 'resnet18\.safetensors', which model\.name 'dagan'"):
        params(model={"name": "dagan"}, train={"teacher": {"weights": "resnet18.safetensors"}})


def test_candidates_are_of_one_system() -> None:
    candidates = [{"name": "a"}, {"name": "b", "overrides": {"model.name": "egbad"}}]
    with pytest.raises(ConfigError, match=r"candidates are of the systems \['dense_skip_gan', 'egbad'\]"):
        params(train={"candidates": candidates})


def test_an_unknown_system_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model\.name.*'skip_ganomaly'.*found 'skipganomaly'"):
        params(model={"name": "skipganomaly"})
