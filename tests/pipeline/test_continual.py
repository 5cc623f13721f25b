"""Three days of a site: what is normal changes, and each version is trained from the one before.

The stages run as `vigil stage` runs them, on real digits and a real registry. Day one's normal images are eights, day
two's are ones, day three's are sevens; zeros are the anomaly throughout. A pair that goes on with ones alone forgets
what an eight looks like.

The score is the distance from the memory. How a training of seconds ends hangs on how a processor rounds: by the
restoration error a pair with rehearsal knew less of eights than one without, on a processor without AVX-512. What the
networks learn from a batch that is rehearsed in part is tested with the batches, in `tests/unit/training`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from vigil.cli import _SECTION_ATTRIBUTES, STAGES, main
from vigil.config import PromoteSection, RegisterSection, load_params
from vigil.delivery.bundle import load_bundle, read_record
from vigil.delivery.mlflow_tracking import open_store
from vigil.delivery.promotion import history, promote, rollback
from vigil.delivery.verdict import judge
from vigil.errors import ConfigError, PromotionRefused, RegistryError
from vigil.images.importing import import_data
from vigil.images.rehearsal import decode
from vigil.networks.pair import load_pair
from vigil.records import KEPT, MANIFEST
from vigil.stages.summary import read_summary

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600), *MLFLOW_WARNINGS]

RULES = PromoteSection()
PARAMS = """\
# a comment that stays
data: {name: folder, root: data/raw/digits}
split: {official: false, calibration_fraction: 0.2, test_fraction: 0.3}
patch: {channels: 1, shorter_side_px: 32, patch_size_px: 32, stride_px: 32, buckets: 2, workers: 1}
model:
  base_width: 4
  depth: 3
  max_width: 32
  discriminator_width: 8
  feature_channels: 16
  attention: {heads: 2, key_channels: 4, value_channels: 4}
  memory: {enabled: true, features: discriminator}
start:
  parent: null   # from scratch
  rehearsal_share: 0.5
  keep_test_mib: 0.06
train:
  epochs: 2
  batch_size: 8
  learning_rate: 2e-3
  betas: [0.5, 0.99]
  weights: {adversarial: 0.0, contextual: 40.0, latent: 0.0}
  precision: 32-true
  device: cpu
  candidates: [{name: a, seed: 1}]
calibrate: {score: memory}
evaluate: {bootstrap_samples: 200, heat_maps: 1}
promote: {max_recall_drop: 0.5}   # zeros are harder to tell from ones than from eights: what is asked here is memory
"""


def bring(project: Path, normal: int) -> None:
    """Today's data: all digits of one class as normal, zeros as the anomaly."""
    digits = load_digits()
    source, root = project / "source", project / "data/raw/digits"
    for folder in (source, root):
        shutil.rmtree(folder, ignore_errors=True)
    for kind, digit in (("normal", normal), ("anomalous/zero", 0)):
        (source / kind).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == digit)):
            pixels = (digits.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(source / kind / f"{digit}-{number}.png")
    import_data("folder", source, root, None, False)


def run_stages(first: str, last: str = "report") -> None:
    params = load_params(Path("params.yaml"))
    for name in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        run = importlib.import_module(f"vigil.stages.{name}").run
        run(**{s: getattr(params, _SECTION_ATTRIBUTES.get(s, s)) for s in inspect.signature(run).parameters})


def set_params(**values: Any) -> None:
    text = Path("params.yaml").read_text()
    for key, value in values.items():
        text = re.sub(rf"(\b{key}): [^\s,}}]+", rf"\1: {value}", text)
    Path("params.yaml").write_text(text)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """The project after day one, its version promoted, with day two's patches cut and the champion pinned."""
    project = tmp_path_factory.mktemp("site")
    before = Path.cwd()
    os.chdir(project)
    shutil.copy(empty_store, project / "mlflow.db")
    Path("params.yaml").write_text(PARAMS)
    bring(project, 8)
    run_stages("raw")
    assert "parent" not in read("reports/evaluation.json")
    assert main(["promote", "--why", "the first"]) == 0
    assert main(["train", "--from", "champion", "--pin-only"]) == 0
    assert load_params(Path("params.yaml")).start.parent is None, "the champion learned from these very patches"
    bring(project, 1)
    run_stages("raw", "patch")
    assert main(["train", "--from", "champion", "--pin-only"]) == 0
    yield project
    os.chdir(before)


@pytest.fixture(scope="module")
def forgot(site: Path) -> dict[str, Any]:
    """The report's part on the parent after a warm start without rehearsal; its version is 2."""
    set_params(rehearsal_share="0.0")
    run_stages("start")
    found: dict[str, Any] = read("reports/evaluation.json")["parent"]
    return found


@pytest.fixture(scope="module")
def rehearsed(forgot: dict[str, Any], site: Path) -> dict[str, Any]:
    """The same with rehearsal; its version is 3."""
    set_params(rehearsal_share="0.7")
    run_stages("start")
    found: dict[str, Any] = read("reports/evaluation.json")["parent"]
    return found


def registration() -> RegisterSection:
    return load_params(Path("params.yaml")).registration


def shortcuts() -> list[str]:
    """What the audit found in these few digits, of which trivial features tell some apart."""
    return list(json.loads(Path("reports/audit.json").read_text())["findings"])


def test_the_champion_is_pinned_by_what_it_is(site: Path) -> None:
    text = Path("params.yaml").read_text()
    assert "# a comment that stays" in text
    assert text.replace(text[text.index("  parent:") : text.index("  rehearsal_share")], "") == PARAMS.replace(
        "  parent: null   # from scratch\n", ""
    )
    parent = load_params(Path("params.yaml")).start.parent
    tags = open_store(registration()).get_model_version("vigil", "1").tags
    assert parent is not None
    assert (parent.version, parent.bundle, parent.rehearsal) == (
        1,
        tags["vigil.bundle_digest"],
        tags["vigil.rehearsal_digest"],
    )


def test_without_rehearsal_it_forgets_and_is_refused(forgot: dict[str, Any], site: Path) -> None:
    assert forgot["old"]["auroc"]["value"] < forgot["old"]["parent_auroc"]["low"]
    assert "It forgets" in Path("reports/index.html").read_text()
    with pytest.raises(PromotionRefused, match=r"it forgets: AUROC 0\.\d+ on the old test images, below the interval"):
        promote(registration(), RULES, who="ann", why="new day")
    assert main(["promote"]) == 2
    accepted = promote(
        registration(), RULES, who="ann", why="eights are gone for good", accept=True, accept_findings=shortcuts()
    )
    assert accepted.event is not None
    assert any("it forgets" in reason for reason in accepted.event.reasons)
    rollback(registration(), who="ann", why="they are back")


def test_a_warm_start_with_rehearsal_keeps_what_the_champion_knew(
    forgot: dict[str, Any], rehearsed: dict[str, Any], site: Path
) -> None:
    old, new = rehearsed["old"], rehearsed["new"]
    assert old["digest"] == forgot["old"]["digest"]
    assert old["parent_auroc"] == forgot["old"]["parent_auroc"]
    assert old["auroc"]["value"] > forgot["old"]["auroc"]["value"]
    assert old["auroc"]["value"] >= old["parent_auroc"]["low"]
    assert new["auroc"]["value"] > new["parent_auroc"]["value"]
    assert new["auroc"]["value"] == read("reports/evaluation.json")["auroc"]["value"]
    for both in (old, new):
        for name in ("auroc", "parent_auroc", "auroc_difference"):
            assert both[name]["low"] <= both[name]["value"] <= both[name]["high"]

    # What is said of the parent is what the parent's bundle says of these images when it screens them.
    bundle = load_bundle(site / "models/start/bundle")
    kept = decode(KEPT.read(site / "data/rehearsal/test.parquet"))
    scores = np.array([judgement.score for judgement in judge(bundle, kept.pixels)])
    normal, anomalous = scores[kept.labels == 0], scores[kept.labels == 1]
    assert old["images"] == {"normal": len(normal), "anomalous": len(anomalous)}
    pairs = anomalous[:, None] - normal[None, :]
    auroc = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert old["parent_auroc"]["value"] == pytest.approx(auroc, abs=1e-9)


def test_lineage_is_recorded_everywhere(rehearsed: dict[str, Any], site: Path) -> None:
    _, record = load_pair(site / "models/pair")
    start = record["start"]
    assert (start["version"], start["rehearsal_share"]) == (1, 0.7)
    assert start["rehearsed_patches"] == KEPT.read(site / "data/rehearsal/train.parquet").num_rows > 50
    summary = read_record(site / "models/bundle").evaluation.parent
    assert summary is not None
    assert (summary.version, summary.bundle) == (1, start["bundle"])
    client = open_store(registration())
    version = client.get_model_version("vigil", "3")
    for tags in (version.tags, client.get_run(version.run_id).data.tags):
        assert (tags["vigil.parent_version"], tags["vigil.parent_bundle_digest"]) == ("1", start["bundle"])
    page = Path("reports/index.html").read_text()
    assert "Trained from version 1" in page
    assert "It keeps what its parent knew" in page
    text = read_summary().as_text()
    assert "Trained from v1" in text
    assert "Test images of v1" in text


def test_a_chain_of_two_stays_bounded_and_remembers_both(rehearsed: dict[str, Any], site: Path) -> None:
    accepted = [option for name in shortcuts() for option in ("--accept-finding", name)]
    assert main(["promote", "--why", "keeps the old", *accepted]) == 0
    event = history(registration())[-1]
    assert event.champion is not None
    assert event.champion.auroc == pytest.approx(rehearsed["new"]["parent_auroc"]["value"])

    bring(site, 7)
    run_stages("raw", "patch")
    assert main(["train", "--from", "champion", "--pin-only"]) == 0
    set_params(epochs=1)
    run_stages("start", "register")
    record = load_pair(site / "models/pair")[1]["start"]
    assert record["version"] == 3
    digits = {row["sha256"]: row["image_id"] for row in MANIFEST.read(Path("data/accepted.parquet")).to_pylist()}
    old = KEPT.read(Path("data/rehearsal/train.parquet")).column("sha256").to_pylist()
    assert not set(old) & set(digits), "ones and eights, none of today's"
    handed_on = KEPT.read(Path("data/rehearsal/next/train.parquet"))
    assert set(old) < set(handed_on.column("sha256").to_pylist())
    assert handed_on.num_rows > len(old) > record["rehearsed_patches"] - 1
    tested = KEPT.read(Path("data/rehearsal/next/test.parquet"))
    assert sum(map(len, tested.column("pixels").to_pylist())) <= 0.06 * (1 << 20)
    version = open_store(registration()).get_model_version("vigil", "4")
    assert version.tags["vigil.parent_version"] == "3"


def test_other_preprocessing_or_architecture_is_refused_by_name(rehearsed: dict[str, Any], site: Path) -> None:
    whole = Path("params.yaml").read_text()
    try:
        set_params(stride_px=16)
        with pytest.raises(ConfigError, match=r"saw its images otherwise .* patch.stride_px was 32, is 16"):
            run_stages("start", "start")
        Path("params.yaml").write_text(whole)
        set_params(base_width=8)
        with pytest.raises(ConfigError, match=r"another architecture .* model.base_width was 4, is 8"):
            run_stages("start", "train")
        Path("params.yaml").write_text(whole)
        parent = load_params(Path("params.yaml")).start.parent
        assert parent is not None
        Path("params.yaml").write_text(whole.replace(parent.rehearsal, "f" * 64))
        with pytest.raises(RegistryError, match=rf"has rehearsal {parent.rehearsal}, pinned is fff"):
            run_stages("start", "start")
    finally:
        Path("params.yaml").write_text(whole)


def test_from_scratch_unpins(site: Path) -> None:
    assert main(["train", "--from", "scratch", "--pin-only"]) == 0
    assert load_params(Path("params.yaml")).start.parent is None
    assert main(["train", "--pin-only"]) == ConfigError.exit_code
