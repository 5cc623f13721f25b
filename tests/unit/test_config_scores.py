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
