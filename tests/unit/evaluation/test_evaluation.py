import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from vigil.calibration.calibration import Calibration, fit_calibration
from vigil.config import AttentionSection, CalibrateSection, EvaluateSection, ModelSection, PatchSection
from vigil.errors import DataError, ScoreNotFinite
from vigil.evaluation.baselines import trivial_features, untrained_scores
from vigil.evaluation.evaluation import Evaluation, evaluate
from vigil.evaluation.localisation import measure_maps, stitched_images
from vigil.files import canonical_json, digest_bytes
from vigil.images.extraction import extract_split
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec
from vigil.records import MANIFEST, PATCH_SCORES, SPLIT_TABLE
from vigil.seeding import numpy_generator

HEIGHT, WIDTH = 40, 56
PATCH = PatchSection(patch_size_px=32, stride_px=16, buckets=3, workers=1, regions_of_interest=True)
SPEC = PairSpec(
    channels=3,
    patch_size_px=32,
    model=ModelSection(
        base_width=4, depth=2, max_width=16, discriminator_width=8, feature_channels=8,
        attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
    ),
)  # fmt: skip
SECTION = EvaluateSection(bootstrap_samples=100)
BOXES = {"cut": (4, 6, 10, 14), "hole": (30, 20, 44, 36)}  # x0, y0, x1, y1


@dataclass
class Project:
    """A tiny data set on disk with test patches, training patches and anomaly maps, and scores made up by hand."""

    manifest: pa.Table
    test: PatchShards
    train: PatchShards
    maps: Path
    scores: pa.Table
    calibration: Calibration

    def evaluate(self, section: EvaluateSection = SECTION, **changed: object) -> Evaluation:
        given = {"manifest": self.manifest, "test": self.test, "train": self.train, "maps_folder": self.maps}
        return evaluate(
            self.scores, self.calibration, section, **{**given, "patch": PATCH, "spec": SPEC, **changed}  # type: ignore[arg-type]
        )  # fmt: skip


def image_of(number: int, kinds: list[str]) -> np.ndarray:
    """Dull noise; an anomaly is a bright saturated box."""
    pixels = numpy_generator(number, "evaluated image").integers(90, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for kind in kinds:
        x0, y0, x1, y1 = BOXES[kind]
        pixels[y0:y1, x0:x1] = (255, 240, 20)
    return pixels


def build(folder: Path, test_kinds: list[str]) -> Project:
    root = folder / "raw"
    root.mkdir(parents=True)
    rows, split = [], []
    for number, kind in enumerate([*["normal"] * 6, *test_kinds]):
        kinds = [] if kind == "normal" else kind.split("+")
        encoded = io.BytesIO()
        Image.fromarray(image_of(number, kinds)).save(encoded, "PNG")
        content = encoded.getvalue()
        path = f"image-{number:02d}.png"
        (root / path).write_bytes(content)
        boxes = [dict(zip(("kind", "x0", "y0", "x1", "y1"), (k, *BOXES[k]), strict=True)) for k in kinds]
        rows.append({
            "image_id": path, "path": path, "offset": None, "bytes": len(content), "sha256": digest_bytes(content),
            "width": WIDTH, "height": HEIGHT, "mode": "RGB", "label": int(bool(kinds)), "kind": kind,
            "group": f"bag-{number // 2}", "official_split": None, "mask_path": None, "boxes": boxes, "fault": None,
        })  # fmt: skip
        split.append({k: rows[-1][k] for k in ("image_id", "label", "kind", "group")})
        split[-1]["split"] = "train" if number < 6 else "test"
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST.schema)
    splits = pa.Table.from_pylist(split, schema=SPLIT_TABLE.schema)
    for name in ("train", "test"):
        extract_split(name, manifest, splits, root, PATCH, folder / name)
    test, train = (PatchShards.open(folder / name) for name in ("test", "train"))
    maps = folder / "maps"
    maps.mkdir()
    for bucket in test.buckets:  # a map that is right: 1 inside a box, 0.25 elsewhere
        masks = test.read_masks(test.rows_of(bucket=bucket))
        np.save(maps / f"bucket-{bucket:04d}.npy", np.where(masks > 0, 1.0, 0.25).astype(np.float16))
    normal = pa.table({**_columns(20), "contextual": np.arange(20.0) / 10, "latent": np.zeros(20)})
    calibration = fit_calibration(
        normal.select(PATCH_SCORES.schema.names).cast(PATCH_SCORES.schema), CalibrateSection(eta=1.0, target_fpr=0.1)
    )
    return Project(manifest, test, train, maps, _scores(test), calibration)


def _columns(count: int) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {n: [0] * count for n in PATCH_SCORES.schema.names}
    columns |= {n: [f"{n}-{i}" for i in range(count)] for n in ("patch_id", "image_id", "group")}
    return columns | {"source": ["grid"] * count, "kind": ["normal"] * count}


def _scores(test: PatchShards) -> pa.Table:
    """Contextual = number of the image / 10, twice that for a patch that meets a box, 99 for regions of interest."""
    rows = test.index.to_pylist()
    contextual = [
        99.0 if row["source"] == "roi" else int(row["image_id"][6:8]) / 10 * (1 + row["label"]) for row in rows
    ]
    table = test.index
    for name, values in (("contextual", contextual), ("latent", [0.0] * len(rows)), ("map_peak", [0.0] * len(rows))):
        table = table.append_column(PATCH_SCORES.schema.field(name), pa.array(values, pa.float64()))
    return table.select(PATCH_SCORES.schema.names)


KINDS = ["normal", "cut", "normal", "hole", "normal", "cut+hole", "normal", "normal", "normal", "normal", "cut", "hole"]
# Images 6 .. 17; image scores: number / 10, twice that for anomalous ones.
LABELS = np.array([kind != "normal" for kind in KINDS], int)
SCORES = np.array([number / 10 * (1 + label) for number, label in zip(range(6, 18), LABELS, strict=True)])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return build(tmp_path_factory.mktemp("evaluation"), KINDS)


@pytest.fixture(scope="module")
def evaluation(project: Project) -> Evaluation:
    return project.evaluate()


def test_table_holds_every_test_image_with_its_score_and_verdict(project: Project, evaluation: Evaluation) -> None:
    rows = evaluation.images.to_pylist()
    assert [row["image_id"] for row in rows] == [f"image-{number:02d}.png" for number in range(6, 18)]
    np.testing.assert_allclose([row["score"] for row in rows], SCORES)  # regions of interest (99) are left out
    assert [row["label"] for row in rows] == LABELS.tolist()
    assert [row["kind"] for row in rows] == KINDS
    assert project.calibration.threshold == 1.8
    assert [row["verdict"] for row in rows] == ["ANOMALOUS" if s > 1.8 else "NORMAL" for s in SCORES]
    np.testing.assert_allclose([row["scaled_score"] for row in rows], SCORES / 1.9)


def test_report_numbers_equal_scikit_learn(evaluation: Evaluation) -> None:
    report, flagged = evaluation.report, SCORES > 1.8
    assert report["images"] == {"normal": 7, "anomalous": 5, "groups": 6}
    assert report["auroc"]["value"] == pytest.approx(roc_auc_score(LABELS, SCORES))
    assert report["average_precision"]["value"] == pytest.approx(average_precision_score(LABELS, SCORES))
    assert report["f1"]["value"] == pytest.approx(f1_score(LABELS, flagged))
    assert (report["recall"]["count"], report["recall"]["of"]) == (flagged[LABELS == 1].sum(), 5)
    assert (report["fpr"]["count"], report["fpr"]["of"]) == (flagged[LABELS == 0].sum(), 7)
    assert report["precision"]["of"] == flagged.sum()
    for name in ("auroc", "average_precision", "f1", "recall", "fpr", "precision", "box_hit_rate"):
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"], name
    assert report["threshold"] == 1.8
    assert report["protocol"] == "strict"
    assert "paper_protocol" not in report
    assert report["undefined"] == {}
    assert json.loads(canonical_json(report)) == report  # plain JSON, no NaN


def test_an_image_of_two_kinds_counts_for_both(evaluation: Evaluation) -> None:
    per_kind = evaluation.report["per_kind"]
    assert {kind: row["n"] for kind, row in per_kind.items()} == {"cut": 3, "hole": 3}
    which = np.array(["hole" in kind or kind == "normal" for kind in KINDS])
    assert per_kind["hole"]["auroc"]["value"] == pytest.approx(roc_auc_score(LABELS[which], SCORES[which]))
    assert per_kind["cut"]["recall"]["of"] == 3


def test_maps_that_are_right_reach_one(evaluation: Evaluation) -> None:
    report = evaluation.report
    assert (report["pixel_auroc"], report["aupro"]) == (1.0, pytest.approx(1.0))
    assert (report["box_hit_rate"]["count"], report["box_hit_rate"]["of"]) == (5, 5)
    assert report["anomalous_images_without_mask_or_box"] == 0


def test_patches_inside_anomalous_images_are_compared_with_their_neighbours(
    project: Project, evaluation: Evaluation
) -> None:
    rows = project.scores.to_pylist()
    of_image: dict[str, list[dict]] = {}
    for row in rows:
        if row["source"] == "grid" and row["image_label"] == 1:
            of_image.setdefault(row["image_id"], []).append(row)
    used = [row for image in of_image.values() if len({r["label"] for r in image}) == 2 for row in image]
    inside = evaluation.report["patch_auroc_inside"]
    scores = project.calibration.patch_scores(
        {n: np.array([r[n] for r in used]) for n in ("contextual", "latent", "map_peak")}
    )
    labels = [row["label"] for row in used]
    assert inside["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert (inside["patches_that_meet"], inside["other_patches"]) == (sum(labels), len(labels) - sum(labels))
    assert min(inside["trivial"].values()) >= 0.5
    assert max(inside["trivial"].values()) > 0.8, "the boxes are bright and saturated"


def test_baselines_stand_beside_in_their_better_direction(project: Project, evaluation: Evaluation) -> None:
    rows = evaluation.report["trivial_baselines"]
    assert {"brightness", "contrast", "laplacian_energy", "file_bytes", "blue_share", "dark_share"} <= set(rows)
    assert rows["contrast"]["auroc"] == rows["contrast"]["auroc_raw"] == 1.0
    assert rows["histogram_distance"]["auroc"] == 1.0
    sizes = project.manifest.column("bytes").to_numpy()[6:]
    raw = roc_auc_score(LABELS, sizes)
    assert rows["file_bytes"]["auroc_raw"] == pytest.approx(raw)
    assert rows["file_bytes"]["auroc"] == pytest.approx(max(raw, 1 - raw))
    assert rows["file_bytes"]["direction"] == ("higher" if raw >= 0.5 else "lower")
    for row in rows.values():
        assert row["low"] <= row["auroc"] <= row["high"]
        assert row["auroc"] >= 0.5
    untrained = evaluation.report["untrained_baseline"]
    assert untrained["auroc"] == untrained["auroc_raw"] == 1.0  # saturated boxes are easy to see
    margin = evaluation.report["margin_over_best_baseline"]
    assert margin["value"] == pytest.approx(evaluation.report["auroc"]["value"] - 1.0)
    assert margin["low"] <= margin["value"] <= margin["high"]


def test_report_is_a_function_of_its_inputs(project: Project, evaluation: Evaluation) -> None:
    assert canonical_json(project.evaluate().report) == canonical_json(evaluation.report)


def test_test_digest_follows_the_images_and_not_the_scores(project: Project, evaluation: Evaluation) -> None:
    scores = project.scores
    place = scores.column_names.index("contextual")
    raised = scores.set_column(place, "contextual", pa.array(scores.column("contextual").to_numpy() + 1))
    other_scores = evaluate(
        raised, project.calibration, SECTION, manifest=project.manifest, test=project.test, train=project.train,
        maps_folder=project.maps, patch=PATCH, spec=SPEC,
    )  # fmt: skip
    assert other_scores.report["test_digest"] == evaluation.report["test_digest"]
    place = project.manifest.column_names.index("sha256")
    shas = project.manifest.column("sha256").to_pylist()
    changed = project.manifest.set_column(place, "sha256", pa.array([*shas[:-1], "0" * 64]))
    assert project.evaluate(manifest=changed).report["test_digest"] != evaluation.report["test_digest"]


def test_paper_protocol_stands_in_a_place_of_its_own(project: Project, evaluation: Evaluation) -> None:
    report = project.evaluate(SECTION.model_copy(update={"protocol": "paper"})).report
    paper = report["paper_protocol"]
    assert paper["anomalous_patches_are"] == "regions of interest"
    assert paper["patch_auroc"] == 1.0  # regions of interest score 99
    assert (paper["anomalous_patches"], paper["scale_max"]) == (6, 99.0)
    assert paper["normal_patches"] == 7 * 6
    for name in ("auroc", "recall", "fpr", "threshold", "pixel_auroc"):
        assert report[name] == evaluation.report[name]


def test_scores_of_other_patches_and_unknown_images_are_refused(project: Project) -> None:
    with pytest.raises(DataError, match="not in the manifest, such as image-06"):
        project.evaluate(manifest=project.manifest.slice(7))
    with pytest.raises(DataError, match="not those of the patches"):
        project.evaluate(test=project.train)


def test_maps_that_are_missing_short_or_no_numbers_are_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a whole file of anomaly maps"):
        measure_maps(project.test, PATCH, tmp_path)
    for bucket in project.test.buckets:
        maps = np.load(project.maps / f"bucket-{bucket:04d}.npy")
        np.save(tmp_path / f"bucket-{bucket:04d}.npy", maps[:-1])
    with pytest.raises(DataError, match="maps, one per patch"):
        measure_maps(project.test, PATCH, tmp_path)
    for bucket in project.test.buckets:
        maps = np.load(project.maps / f"bucket-{bucket:04d}.npy")
        np.save(tmp_path / f"bucket-{bucket:04d}.npy", np.full_like(maps, np.nan))
    with pytest.raises(ScoreNotFinite):
        measure_maps(project.test, PATCH, tmp_path)


def test_a_test_split_without_anomalies_gives_none_with_the_reason(tmp_path: Path) -> None:
    report = build(tmp_path, ["normal"] * 4).evaluate().report
    for name in ("auroc", "average_precision", "recall", "pixel_auroc", "aupro", "box_hit_rate"):
        assert report[name] is None
        assert report["undefined"][name]
    assert "4 normal and 0 anomalous" in report["undefined"]["auroc"]
    assert report["fpr"]["of"] == 4
    assert report["trivial_baselines"]["brightness"]["auroc"] is None
    assert report["margin_over_best_baseline"] is None


# -------------------------------------------------------------------------------------- stitching and features, by hand


def test_stitched_images_equal_the_files_and_their_boxes(project: Project) -> None:
    images = {image.image_id: image for image in stitched_images(project.test, PATCH, project.maps)}
    assert len(images) == 12
    for number, kind in enumerate(KINDS, start=6):
        image = images[f"image-{number:02d}.png"]
        kinds = [] if kind == "normal" else kind.split("+")
        assert np.array_equal(image.pixels, image_of(number, kinds))
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for name in kinds:
            x0, y0, x1, y1 = BOXES[name]
            mask[y0:y1, x0:x1] = True
        assert np.array_equal(image.mask, mask)
        assert image.anomaly_map is not None
        np.testing.assert_allclose(image.anomaly_map, np.where(mask, 1.0, 0.25), atol=1e-6)


def test_stitching_can_be_limited_to_some_images_and_needs_no_maps(project: Project) -> None:
    images = list(stitched_images(project.train, PATCH, only={"image-02.png", "image-06.png"}))
    assert [(i.image_id, i.anomaly_map, bool(i.mask.any())) for i in images] == [("image-02.png", None, False)]


def test_trivial_features_equal_plain_numpy(project: Project) -> None:
    sizes = dict(zip(*(project.manifest.column(n).to_pylist() for n in ("image_id", "bytes")), strict=True))
    ids, features = trivial_features(project.test, project.train, PATCH, sizes, seed=0)
    assert sorted(ids) == [f"image-{number:02d}.png" for number in range(6, 18)]
    place = ids.index("image-07.png")
    image = image_of(7, ["cut"]).astype(float) / 255
    grey = image.sum(axis=2) / 3
    assert features["brightness"][place] == pytest.approx(grey.mean())
    assert features["contrast"][place] == pytest.approx(np.sqrt(((grey - grey.mean()) ** 2).mean()))
    assert features["bright_share"][place] == 0.0  # yellow is bright in two channels only
    assert features["blue_share"][place] == pytest.approx((image[..., 2] - image[..., 0] > 0.1).mean())
    energy = 0.0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            around = [(max(y - 1, 0), x), (min(y + 1, HEIGHT - 1), x), (y, max(x - 1, 0)), (y, min(x + 1, WIDTH - 1))]
            energy += (sum(grey[p] for p in around) - 4 * grey[y, x]) ** 2 / grey.size
    assert features["laplacian_energy"][place] == pytest.approx(energy)
    assert features["file_bytes"][place] == sizes["image-07.png"]
    assert features["histogram_distance"][place] > features["histogram_distance"][ids.index("image-06.png")]


def test_untrained_scores_depend_on_the_seed_alone_and_rank_the_strange_highest(project: Project) -> None:
    ids, scores = untrained_scores(SPEC, project.test, project.train, seed=0)
    again = untrained_scores(SPEC, project.test, project.train, seed=0)[1]
    assert np.array_equal(scores, again)
    assert not np.array_equal(scores, untrained_scores(SPEC, project.test, project.train, seed=1)[1])
    assert ids == sorted(ids)
    assert scores[LABELS == 1].min() > scores[LABELS == 0].max()
