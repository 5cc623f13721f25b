"""Every leak and every shortcut is planted through the code that a real run takes, and found; a clean run passes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageEnhance
from torch import nn

from vigil.calibration.calibration import fit_calibration, scores_digest
from vigil.config import (
    AttentionSection,
    AuditSection,
    CalibrateSection,
    EvaluateSection,
    FolderData,
    ModelSection,
    PatchSection,
    ScoreSection,
    SplitSection,
    TrainSection,
)
from vigil.evaluation.audit_record import OFFICIAL_NEAR_DUPLICATES, Audit, headline
from vigil.evaluation.duplicates import rehearsed_duplicates
from vigil.evaluation.evaluation import evaluate
from vigil.evaluation.leakage import AuditInputs, audit_leakage, lineage_checks, shortcut_check, split_checks
from vigil.files import canonical_json
from vigil.images.extraction import extract_split
from vigil.images.manifest import build_manifest
from vigil.images.rehearsal import encode, nothing
from vigil.images.shards import PatchShards
from vigil.images.splitting import split_images
from vigil.networks.pair import Pair, PairSpec, build_pair, load_pair, save_pair
from vigil.records import KEPT, PATCH_SCORES
from vigil.scoring.scorer import score_split
from vigil.seeding import numpy_generator
from vigil.training.selection import CandidateScores, rank_candidates

PATCH = PatchSection(patch_size_px=32, stride_px=32, buckets=3, workers=1, shorter_side_px=32)
SPEC = PairSpec(
    channels=3,
    patch_size_px=32,
    model=ModelSection(
        base_width=4, depth=2, max_width=16, discriminator_width=8, feature_channels=8,
        attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
    ),
)  # fmt: skip
SPLIT = SplitSection(calibration_fraction=0.3, test_fraction=0.4, calibration_anomaly_fraction=0.3)
SCORE, CALIBRATE = ScoreSection(batch_size=8, device="cpu"), CalibrateSection(target_recall=0.8)
SECTION = AuditSection(sample_images=8, bootstrap_samples=100)
NORMAL_IMAGES, ANOMALOUS_IMAGES = 70, 40

Encode = Callable[[Image.Image, bool], bytes]
Tamper = Callable[[pa.Table], pa.Table]


def picture(number: int, anomalous: bool) -> Image.Image:
    """A random picture of 40x48; an anomalous one has a patch upside down. Nothing else tells them apart."""
    random = numpy_generator(number, "audited picture")
    coarse = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)).copy()
    if anomalous:
        y, x = random.integers(0, 24, 2)
        image[y : y + 8, x : x + 8] = image[y : y + 8, x : x + 8][::-1].copy()
    noise = random.normal(0, random.uniform(3, 15), image.shape)  # more in some, so that no sharpness tells
    return Image.fromarray((image + noise).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def plain(image: Image.Image, anomalous: bool) -> bytes:
    return jpeg(image)


def write_data(root: Path, encode: Encode) -> None:
    for number in range(NORMAL_IMAGES + ANOMALOUS_IMAGES):
        anomalous = number >= NORMAL_IMAGES
        path = root / ("anomalous/turned" if anomalous else "normal") / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number, anomalous), anomalous))


def run_project(
    folder: Path, encode: Encode = plain, *, pair: Pair | None = None, manifest: Tamper | None = None,
    splits: Tamper | None = None, before: Callable[[Path], None] | None = None,
) -> AuditInputs:  # fmt: skip
    """What the stages make of a data set, with a pair of random weights; `manifest` and `splits` tamper with tables."""
    root = folder / "raw"
    write_data(root, encode)
    if before:
        before(root)
    accepted = build_manifest(FolderData(name="folder", root=str(root)))
    accepted = manifest(accepted) if manifest else accepted
    chosen = split_images(accepted, SPLIT)
    chosen = splits(chosen) if splits else chosen
    shards = {}
    for split in ("train", "calibration", "test"):
        extract_split(split, accepted, chosen, root, PATCH, folder / split)
        shards[split] = PatchShards.open(folder / split)
    digests = {split: shards[split].digest for split in ("train", "calibration")}
    record: dict[str, Any] = {"candidate": "a", "data": digests}
    if pair is None:
        save_pair(folder / "pair", build_pair(SPEC, 0), record)
        pair, record = load_pair(folder / "pair")
    scores = {}
    for split in ("calibration", "test"):
        score_split(pair, shards[split], folder / f"{split}.parquet", folder / f"maps-{split}", SCORE)
        scores[split] = PATCH_SCORES.read(folder / f"{split}.parquet")
    calibration = fit_calibration(scores["calibration"], CALIBRATE)
    measured = evaluate(
        scores["test"],
        calibration,
        EvaluateSection(bootstrap_samples=100),
        manifest=accepted,
        test=shards["test"],
        train=shards["train"],
        maps_folder=folder / "maps-test",
        patch=PATCH,
        spec=SPEC,
    )
    held = scores["calibration"]
    contextual = held.column("contextual").to_numpy()
    selection = rank_candidates(
        [CandidateScores("a", contextual, contextual), CandidateScores("b", -contextual, contextual)],
        held.column("image_id").to_pylist(),
        held.column("image_label").to_numpy(),
    )
    selection = dataclasses.replace(selection, chosen="a", values={"a": 0.6, "b": 0.4})
    train = TrainSection(epochs=2, batch_size=8).model_dump(mode="json")
    patches = len(shards["train"])
    training = {
        "selection": selection.to_record(),
        "candidates": {name: {"train": train, "seed": 0} for name in ("a", "b")},
        "images_seen": dict.fromkeys(("a", "b"), -(-2 * patches // 8) * 8),
        "train_patches": patches,
        "data": digests,
    }
    return AuditInputs(
        pair=pair,
        pair_record=record,
        calibration=calibration,
        evaluation=measured.report,
        training=training,
        manifest=accepted,
        splits=chosen,
        shards=shards,
        scores=scores,
        root=root,
        rehearsed=nothing(),
        patch=PATCH,
        score=SCORE,
        calibrate=CALIBRATE,
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> AuditInputs:
    return run_project(tmp_path_factory.mktemp("clean"))


def audited(inputs: AuditInputs) -> Audit:
    return audit_leakage(inputs, SECTION)


def traced(inputs: AuditInputs, **changes: Any) -> Audit:
    """The checks of the lineage alone."""
    return Audit(lineage_checks(dataclasses.replace(inputs, **changes)), {}, ())


def split(inputs: AuditInputs) -> Audit:
    """The checks of the splits alone."""
    return Audit(split_checks(inputs, SECTION), {}, ())


# ------------------------------------------------------------------------------------------------------------ clean run


def test_a_clean_run_passes_every_check_and_says_the_same_each_time(clean: AuditInputs) -> None:
    audit = audited(clean)
    assert {name: check.status for name, check in audit.checks.items()} == dict.fromkeys(audit.checks, "passed")
    assert (audit.leaks, audit.shortcuts) == ((), ())
    assert headline(audit.as_json()) == f"no leak in {len(audit.checks)} checks, no shortcut found"
    assert canonical_json(audited(clean).as_json()) == canonical_json(audit.as_json())
    # Files lie in order of their label, as they do in most data sets. No score can see that, so it is no finding.
    assert audit.separations["file_position"].auroc == 1.0
    assert "no score can see it" in audit.checks["shortcuts"].text


# --------------------------------------------------------------------------------------------------------- the scorer


def test_batch_statistics_make_scores_depend_on_order_neighbours_and_batch_size(tmp_path: Path) -> None:
    """The released baselines' leak: batch normalisation with the statistics of the batch that is scored."""
    pair = build_pair(SPEC, 0)
    pair.generator.output = nn.Sequential(pair.generator.output, nn.BatchNorm2d(3, track_running_stats=False))  # type: ignore[assignment]
    audit = audited(run_project(tmp_path, pair=pair))
    assert {"score_order", "score_neighbours", "score_batch_size"} <= set(audit.leaks)
    assert "batch statistics" in audit.checks["score_order"].text
    # Now the order of the files, which is that of the labels, is something that a score can see.
    assert "file_position" in audit.shortcuts


def test_scores_of_another_pair_than_the_one_that_is_delivered_are_found(clean: AuditInputs) -> None:
    audit = audited(dataclasses.replace(clean, pair=build_pair(SPEC, 1).eval()))
    assert audit.leaks == ("recorded_scores",)


def test_stitched_peaks_that_the_patches_of_their_image_do_not_give_are_found(tmp_path: Path) -> None:
    model = SPEC.model.model_copy(update={"pointing": True, "pointing_width": 4})
    whole = run_project(tmp_path, pair=build_pair(SPEC.model_copy(update={"model": model}), 0).eval())
    assert "recorded_scores" not in audited(whole).leaks
    test = whole.scores["test"]
    moved_away = pc.add(test.column("stitched_peak"), 0.01)
    others = test.set_column(test.column_names.index("stitched_peak"), "stitched_peak", moved_away)
    audit = audited(dataclasses.replace(whole, scores={**whole.scores, "test": others}))
    assert "recorded_scores" in audit.leaks
    assert "stitched_peak of test patches" in audit.checks["recorded_scores"].text


# ------------------------------------------------------------------------------------------------------------- splits


def moved(splits: pa.Table, image_id: str, to: str) -> pa.Table:
    assert image_id in splits.column("image_id").to_pylist()
    here = pc.equal(splits["image_id"], image_id)
    return splits.set_column(1, splits.schema.field("split"), pc.if_else(here, to, splits["split"]))


def ungrouped(manifest: pa.Table) -> pa.Table:
    """Every image a group of its own, as if nobody had looked for copies."""
    place = manifest.schema.get_field_index("group")
    return manifest.set_column(place, manifest.schema.field("group"), manifest["image_id"])


def copied(change: Callable[[Image.Image], bytes] | None) -> Callable[[Path], None]:
    """Puts a copy of a normal image beside it, as it is or changed."""

    def copy(root: Path) -> None:
        content = (root / "normal/007.jpg").read_bytes()
        (root / "normal/copy.jpg").write_bytes(change(Image.open(io.BytesIO(content))) if change else content)

    return copy


def apart(splits: pa.Table) -> pa.Table:
    return moved(moved(splits, "normal/007.jpg", "test"), "normal/copy.jpg", "train")


def test_a_test_image_copied_into_train_is_found(tmp_path: Path) -> None:
    audit = split(run_project(tmp_path, manifest=ungrouped, splits=apart, before=copied(None)))
    assert audit.leaks == ("split_content", "near_duplicates")
    assert "normal/007.jpg (test) and normal/copy.jpg (train)" in audit.checks["split_content"].text


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, quality=70),
        lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.85)),
        lambda image: jpeg(image.resize((72, 60), Image.Resampling.BICUBIC)),
    ],
    ids=["compressed", "darkened", "scaled"],
)
def test_a_near_duplicate_in_train_is_found(tmp_path: Path, change: Callable[[Image.Image], bytes]) -> None:
    audit = split(run_project(tmp_path, manifest=ungrouped, splits=apart, before=copied(change)))
    assert audit.leaks == ("near_duplicates",)
    assert "normal/007.jpg (test) and normal/copy.jpg (train)" in audit.checks["near_duplicates"].text


def test_a_group_with_images_in_test_and_calibration_is_found(tmp_path: Path) -> None:
    def one_bag(manifest: pa.Table) -> pa.Table:
        bag = pc.is_in(manifest["image_id"], value_set=pa.array(["normal/007.jpg", "normal/008.jpg"]))
        place = manifest.schema.get_field_index("group")
        return manifest.set_column(
            place, manifest.schema.field("group"), pc.if_else(bag, "normal/007.jpg", manifest["group"])
        )

    def torn(splits: pa.Table) -> pa.Table:
        return moved(moved(splits, "normal/007.jpg", "test"), "normal/008.jpg", "calibration")

    audit = split(run_project(tmp_path, manifest=one_bag, splits=torn))
    assert audit.leaks == ("split_groups",)
    assert "normal/007.jpg (test) and normal/008.jpg (calibration)" in audit.checks["split_groups"].text


def officially(test: str, train: str) -> Tamper:
    """A data set whose own split has `test` and every third image for testing, and the others for training."""

    def named(manifest: pa.Table) -> pa.Table:
        ids = ungrouped(manifest)["image_id"].to_pylist()
        split = ["test" if i == test or (n % 3 == 0 and i != train) else "train" for n, i in enumerate(ids)]
        place = manifest.schema.get_field_index("official_split")
        return ungrouped(manifest).set_column(
            place, manifest.schema.field("official_split"), pa.array(split, pa.string())
        )

    return named


@pytest.mark.parametrize("torn_by_hand", [False, True])
def test_a_near_duplicate_across_the_official_split_is_a_finding_and_no_leak(
    tmp_path: Path, torn_by_hand: bool
) -> None:
    """Where the user's own choice put it there, it stays a leak."""
    twin, other = "normal/copy.jpg", "normal/007.jpg"
    manifest = officially(test=other, train=twin)

    def moved_over(splits: pa.Table) -> pa.Table:
        ids = splits["image_id"].to_pylist()
        assert splits["split"][ids.index(other)].as_py() == "test"
        assert splits["split"][ids.index(twin)].as_py() in ("train", "calibration")
        if not torn_by_hand:
            return splits
        spare = next(i for i, s in zip(ids, splits["split"].to_pylist(), strict=True) if s == "train" and i != twin)
        return moved(splits, spare, "test")

    copy = copied(lambda image: jpeg(image, quality=70))
    audit = split(run_project(tmp_path, manifest=manifest, splits=moved_over, before=copy))
    if torn_by_hand:
        assert audit.leaks == ("near_duplicates",)
        assert OFFICIAL_NEAR_DUPLICATES not in audit.checks
        return
    assert audit.leaks == ()
    check, found = audit.checks[OFFICIAL_NEAR_DUPLICATES], audit.as_json()["findings"][OFFICIAL_NEAR_DUPLICATES]
    assert check.status == "finding"
    assert f"{other} (test) and {twin}" in check.text
    assert 0 < found["low"] < found["share"] < found["high"] < 0.2
    assert "of the test images have a near-duplicate across the official split" in headline(audit.as_json())
    assert f"FINDING  {OFFICIAL_NEAR_DUPLICATES}" in audit.as_text()


def test_an_official_split_without_near_duplicates_says_so(clean: AuditInputs, tmp_path: Path) -> None:
    manifest = officially(test="normal/000.jpg", train="normal/001.jpg")
    check = split(run_project(tmp_path, manifest=manifest)).checks[OFFICIAL_NEAR_DUPLICATES]
    assert (check.status, check.share) == ("passed", None)
    assert OFFICIAL_NEAR_DUPLICATES not in split(clean).checks


def rehearsed(*patches: tuple[str, np.ndarray]) -> pa.Table:
    rows = [
        {"key": f"{n:016x}", "sha256": digest, "label": 0, "kind": "normal", "group": "old", "pixels": encode(pixels)}
        for n, (digest, pixels) in enumerate(patches)
    ]
    return pa.Table.from_pylist(rows, KEPT.schema)


def test_a_rehearsed_sample_that_holds_what_is_tested_now_is_found(clean: AuditInputs, tmp_path: Path) -> None:
    def audited_with(*patches: tuple[str, np.ndarray]) -> Audit:
        return split(dataclasses.replace(clean, rehearsed=rehearsed(*patches)))

    test = clean.shards["test"]
    row = int(test.rows_of("grid")[0])
    image_id, pixels = test.index.column("image_id")[row].as_py(), test.read([row])[0]
    digest = dict(zip(*(clean.manifest[n].to_pylist() for n in ("image_id", "sha256")), strict=True))[image_id]
    old = np.asarray(picture(10_000, False))[:32, :32]
    train = clean.shards["train"].read([0])[0]

    assert "rehearsal" not in split(clean).checks
    fine = audited_with(("a" * 64, old), ("b" * 64, train))
    assert fine.leaks == ()
    assert "2 rehearsed patches against those of" in fine.checks["rehearsal"].text

    exact = audited_with(("a" * 64, old), (digest, pixels))
    assert exact.leaks == ("rehearsal",)
    assert f"1 found, such as {image_id} (test) was rehearsed" in exact.checks["rehearsal"].text

    darker = (pixels * 0.85).round().astype(np.uint8)
    near = audited_with(("a" * 64, old), ("b" * 64, darker))
    assert near.leaks == ("rehearsal",)
    assert f"1 found, such as {image_id} (test) and rehearsed patch 1 of bbbbbbbbbbbb" in near.checks["rehearsal"].text


def test_a_background_that_every_image_has_is_no_rehearsed_test_image() -> None:
    """As the corner of a tray: the rehearsed patch is no nearer to the test patch than any training patch is."""
    random = np.random.default_rng(0)
    tray = random.integers(0, 256, (32, 32, 1))

    class Patches:
        def __init__(self, count: int) -> None:
            noisy = tray + random.normal(0, 2, (count, 32, 32, 1))
            self.patches = noisy.clip(0, 255).astype(np.uint8)
            self.index = pa.table({"image_id": [str(number) for number in range(count)]})

        def rows_of(self, source: str) -> np.ndarray:
            return np.arange(len(self.patches))

        def read(self, rows: np.ndarray) -> np.ndarray:
            return self.patches[rows]

    test, train, old = Patches(6), Patches(30), Patches(5).patches
    found = rehearsed_duplicates({"a": old[0]}, test, train, 0)  # type: ignore[arg-type]
    assert (found.candidates, found.pairs) == (6, [])
    test.patches[3] = old[0]
    found = rehearsed_duplicates({"a": old[0]}, test, train, 0)  # type: ignore[arg-type]
    assert [pair.test_image for pair in found.pairs] == ["3"]


def test_patches_of_a_test_image_among_the_training_patches_are_found(clean: AuditInputs, tmp_path: Path) -> None:
    image = clean.shards["test"].index.column("image_id")[0].as_py()
    extract_split("train", clean.manifest, moved(clean.splits, image, "train"), clean.root, PATCH, tmp_path / "train")
    inputs = dataclasses.replace(clean, shards={**clean.shards, "train": PatchShards.open(tmp_path / "train")})
    found = split(inputs)
    assert found.leaks == ("split_images", "near_duplicates")
    assert f"{image} is in test and in train" in found.checks["split_images"].text
    assert traced(inputs).leaks == ("training_data",)


# ------------------------------------------------------------------------------------------------------------- lineage


def test_a_threshold_fitted_on_test_is_found_and_refuted(clean: AuditInputs) -> None:
    fitted = fit_calibration(clean.scores["test"], CALIBRATE)
    evaluation = {**clean.evaluation, "threshold": fitted.threshold}
    audit = traced(clean, calibration=fitted, evaluation=evaluation)
    assert audit.leaks == ("calibration_data", "calibration_result")
    assert "records the digest of the test scores" in audit.checks["calibration_data"].text
    assert "The test scores give it: it was fitted on test data" in audit.checks["calibration_result"].text

    # The digest can be written over; the numbers cannot.
    forged = fitted.model_copy(update={"inputs_digest": scores_digest(clean.scores["calibration"])})
    assert traced(clean, calibration=forged, evaluation=evaluation).leaks == ("calibration_result",)


@pytest.mark.parametrize("change", [{"threshold": 0.123}, {"eta": 0.35}, {"scale_max": 9.0}])
def test_a_threshold_an_eta_or_a_scale_that_was_set_by_hand_is_found(
    clean: AuditInputs, change: dict[str, float]
) -> None:
    audit = traced(clean, calibration=clean.calibration.model_copy(update=change))
    assert "calibration_result" in audit.leaks
    assert "calibration_data" not in audit.leaks


def test_a_choice_on_test_data_is_found(clean: AuditInputs) -> None:
    def selected(**changes: Any) -> str:
        training = {**clean.training, "selection": {**clean.training["selection"], **changes}}
        audit = traced(clean, training=training)
        assert audit.leaks == ("selection",)
        return audit.checks["selection"].text

    assert "the criterion is 'test_image_auroc'" in selected(criterion="test_image_auroc")
    assert "'a' was chosen, although it is not the best" in selected(values={"a": 0.5, "b": 0.7})
    assert "the pair is candidate 'a', chosen was another" in selected(chosen="b", values={"a": 0.5, "b": 0.7})


def test_a_run_that_stopped_at_its_best_epoch_is_found(clean: AuditInputs) -> None:
    audit = traced(clean, training={**clean.training, "images_seen": {"a": 16, "b": 96}})
    assert audit.leaks == ("selection",)
    assert "'a' stands at 16 images of the" in audit.checks["selection"].text


def test_a_pair_that_saw_test_patches_or_other_patches_is_found(clean: AuditInputs) -> None:
    data = clean.pair_record["data"]
    seen = traced(clean, pair_record={**clean.pair_record, "data": {**data, "more": clean.shards["test"].digest}})
    assert seen.leaks == ("training_data",)
    assert "names the test patches" in seen.checks["training_data"].text
    other = traced(clean, pair_record={**clean.pair_record, "data": {**data, "train": "0" * 64}})
    assert other.leaks == ("training_data",)


def test_figures_of_other_scores_are_found(clean: AuditInputs) -> None:
    audit = traced(clean, evaluation={**clean.evaluation, "auroc": {"value": 0.99}})
    assert audit.leaks == ("evaluation",)
    assert "the recorded AUROC is 0.99" in audit.checks["evaluation"].text


# ------------------------------------------------------------------------------------------------------------ shortcuts


def with_images(clean: AuditInputs, root: Path, encode: Encode) -> AuditInputs:
    """The clean project with other encodings of its images."""
    write_data(root, encode)
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    return dataclasses.replace(clean, manifest=manifest, root=root)


def sorted_by_features(inputs: AuditInputs, section: AuditSection = SECTION) -> Audit:
    check, found, shortcuts = shortcut_check(inputs, section)
    return Audit({"shortcuts": check}, found, shortcuts)


@pytest.mark.parametrize(
    ("feature", "encode"),
    [
        ("image_area", lambda image, odd: jpeg(image.resize((54, 45), Image.Resampling.BICUBIC) if odd else image)),
        ("brightness", lambda image, odd: jpeg(image.point(lambda v: v // 2 + (10 if odd else 90)))),
        ("jpeg_quantisation", lambda image, odd: jpeg(image, quality=80 if odd else 90)),
        ("saturation", lambda image, odd: jpeg(ImageEnhance.Color(image).enhance(0.4 if odd else 1.0))),
    ],
)
def test_a_shortcut_is_a_finding_with_its_auroc_and_no_leak(
    clean: AuditInputs, tmp_path: Path, feature: str, encode: Encode
) -> None:
    audit = sorted_by_features(with_images(clean, tmp_path, encode))
    assert audit.leaks == ()
    assert {feature, "combined"} <= set(audit.shortcuts)
    found = audit.as_json()["findings"][feature]
    assert found["auroc"] >= found["low"] > 0.75
    assert f"{feature} (AUROC {found['auroc']:.3f})" in headline(audit.as_json())
    assert audit.checks["shortcuts"].status == "shortcut"


def test_the_threshold_of_a_finding_is_a_setting(clean: AuditInputs, tmp_path: Path) -> None:
    inputs = with_images(clean, tmp_path, lambda image, odd: jpeg(image.point(lambda v: v // 2 + (40 if odd else 55))))
    low = sorted_by_features(inputs).separations["brightness"].low
    assert low is not None
    for level, found in ((low - 0.01, True), (low + 0.01, False)):
        audit = sorted_by_features(inputs, SECTION.model_copy(update={"shortcut_auroc": level}))
        assert ("brightness" in audit.shortcuts) is found


def test_one_label_alone_is_said_to_be_not_checked(clean: AuditInputs, tmp_path: Path) -> None:
    normal = clean.splits.filter(pc.equal(clean.splits["label"], 0))
    extract_split("test", clean.manifest, normal, clean.root, PATCH, tmp_path / "test")
    inputs = dataclasses.replace(clean, shards={**clean.shards, "test": PatchShards.open(tmp_path / "test")})
    assert sorted_by_features(inputs).checks["shortcuts"].status == "not_checked"
