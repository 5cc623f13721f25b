"""The leakage audit: does a result depend on what it must not know? Proved or refuted by running, not by promise.

A **leak** makes the numbers wrong: a score that depends on order or neighbours, a test image in training, a threshold
that saw the test. A **shortcut** makes them say less than they seem to: the numbers are right, but test images can be
sorted by how they were acquired. A check that cannot be made here says so; it never passes silently.

Legend: N patches, M images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigil.calibration.calibration import Calibration, fit_calibration, scores_digest
from vigil.calibration.ranking import auroc
from vigil.calibration.threshold import clopper_pearson
from vigil.config import AuditSection, CalibrateSection, PatchSection, ScoreSection
from vigil.errors import VigilError
from vigil.evaluation.audit_record import OFFICIAL_NEAR_DUPLICATES, Audit, Check, Report, Separation, Share
from vigil.evaluation.duplicates import Duplicate, near_duplicates, rehearsed_duplicates
from vigil.evaluation.evaluation import digest_of_test
from vigil.evaluation.shortcuts import POSITION, separations, trivial_images
from vigil.images.rehearsal import decode
from vigil.images.shards import PatchShards
from vigil.networks.pair import Pair
from vigil.progress import Progress
from vigil.records import ANOMALOUS, NORMAL
from vigil.scoring.reduction import image_scores, images_of
from vigil.scoring.scorer import PatchComponents, device_of, score_patches, with_stitched_peaks
from vigil.seeding import numpy_generator

TOLERANCE = 1e-6
"""How far a component may move, in units of the largest of its kind in the sample (at least 1).

A float32 holds 24 bits, so one rounding is 6e-8; another batch size lets the kernels sum in another order and adds up
some tens of these. A score that depends on its batch, such as through batch statistics, moves a thousand times as far.
"""
RECORDED_TOLERANCE = 1e-4
"""The same for scores recorded earlier, maybe on another device, whose kernels differ more. Another pair, or the same
in training mode, moves them by far more."""
_PATCHES_PER_IMAGE = 4
_ALONE = 3
_STITCHED = 4
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class AuditInputs:
    """Everything that is audited: a pair, its calibration and evaluation, and the data they were made from."""

    pair: Pair
    pair_record: Report
    """What pair.json records of the pair's making."""
    calibration: Calibration
    evaluation: Report
    """`auroc` (with `value`, or null), `threshold` and `test_digest`, as in reports/evaluation.json."""
    training: Report
    """reports/train.json"""
    manifest: pa.Table
    """records.MANIFEST of the accepted images."""
    splits: pa.Table
    """records.SPLIT_TABLE"""
    shards: Mapping[str, PatchShards]
    """`train`, `calibration` and `test`."""
    scores: Mapping[str, pa.Table]
    """records.PATCH_SCORES of `calibration` and `test`."""
    root: Path
    """Folder of the raw data set."""
    rehearsed: pa.Table
    """records.KEPT: the training patches of an earlier version that this one rehearsed; empty where there were none."""
    patch: PatchSection
    score: ScoreSection
    calibrate: CalibrateSection


def audit_leakage(inputs: AuditInputs, section: AuditSection) -> Audit:
    """Makes every check; a leak does not stop the others.

    Bounded: of the scorer's part a seeded sample of `section.sample_images` test images, four patches of each at the
    most; of the trivial features and the near-duplicates seeded samples of large test splits. All else is complete.

    Raises:
        DataError: A file that the audit reads is missing or damaged.
        ScoreNotFinite: A sampled patch has no score.
    """
    checks = {**scorer_checks(inputs, section), **split_checks(inputs, section), **lineage_checks(inputs)}
    ordered = any(checks[name].status == "leak" for name in ("score_order", "score_neighbours"))
    check, found, shortcuts = shortcut_check(inputs, section, ordered)
    return Audit({**checks, "shortcuts": check}, found, shortcuts)


# --------------------------------------------------------------------------------------------------- running the scorer


class _Scorer:
    """The scorer, as the score stage runs it, on one sample of patches."""

    def __init__(self, inputs: AuditInputs, patches: NDArray[np.uint8]) -> None:
        self._inputs, self._patches = inputs, patches
        self._device = device_of(inputs.score.device)
        self.batch_size = inputs.score.batch_size
        self.reference = self.run(np.arange(len(patches)))
        self._scales = {name: max(1.0, float(np.abs(v).max())) for name, v in self.reference.arrays().items()}

    def run(self, rows: NDArray[np.intp], batch_size: int | None = None) -> PatchComponents:
        """The components of these rows of the sample, scored in this order."""
        return self.score(self._patches[rows], batch_size)

    def score(self, patches: NDArray[np.uint8], batch_size: int | None = None) -> PatchComponents:
        """The components of any patches."""
        size = batch_size or self.batch_size
        return score_patches(self._inputs.pair, patches, device=self._device, batch_size=size)

    def patch(self, row: int) -> NDArray[np.uint8]:
        """One patch of the sample, [1, P, P, C]."""
        return self._patches[row : row + 1]

    def moved(self, found: PatchComponents, rows: NDArray[np.intp]) -> tuple[float, str]:
        """How far `found` lies from the reference of `rows`, and the component that moved the most."""
        values = found.arrays()
        return max(
            (self.distance(name, values[name][: len(rows)], expected[rows]), name)
            for name, expected in self.reference.arrays().items()
        )

    def distance(self, name: str, found: NDArray[Any], expected: NDArray[Any]) -> float:
        """The largest difference, in units of the component's scale."""
        return float(np.abs(found.astype(np.float64) - expected).max(initial=0)) / self._scales[name]


def scorer_checks(inputs: AuditInputs, section: AuditSection) -> dict[str, Check]:
    """Runs the scorer on a sample in other orders, batches and company, and holds it against the recorded scores."""
    images = {"test": section.sample_images, "calibration": section.sample_images // 2}
    rows = {split: _sample(inputs.shards[split], images[split], section.seed, split) for split in images}
    patches = np.concatenate([inputs.shards[split].read(rows[split]) for split in ("test", "calibration")])
    labels = np.concatenate(
        [inputs.shards[s].index.column("image_label").to_numpy()[rows[s]] for s in ("test", "calibration")]
    )
    everything = np.arange(len(patches))
    few, some = everything[:: max(1, len(patches) // 16)], everything[:: max(1, len(patches) // 48)]
    total = 3 * len(patches) + 3 * _ALONE * inputs.score.batch_size + len(few) + len(some)
    progress = Progress("leakage audit, scorer", total, "patches")
    scorer = _Scorer(inputs, patches)
    progress.advance(len(patches))
    of_sample = f"{len(patches)} sampled patches"

    moved = []
    random = numpy_generator(section.seed, "audit order")
    for order in (random.permutation(everything), np.argsort(labels, kind="stable")[::-1]):
        moved.append(scorer.moved(scorer.run(order), order))
        progress.advance(len(patches))
    checks = {
        "score_order": _scored(
            "Scores do not depend on the order of the images",
            f"{of_sample} scored in a random order and sorted by label",
            max(moved),
        )
    }

    alone, count = random.permutation(everything)[:_ALONE], scorer.batch_size - 1
    moved = []
    for row in alone.tolist():
        noise = random.integers(0, 256, (count, *patches.shape[1:]), dtype=np.uint8)
        extremes = np.zeros_like(noise)  # black and white in turn
        extremes[1::2] = 255
        for neighbours in (noise, extremes, noise[:0]):
            found = scorer.score(np.concatenate([scorer.patch(row), neighbours]))
            moved.append(scorer.moved(found, np.array([row])))
            progress.advance(scorer.batch_size)
    checks["score_neighbours"] = _scored(
        "Scores do not depend on the other images of a batch",
        f"{len(alone)} patches scored alone, among noise, and among black and white patches",
        max(moved),
    )

    odd = scorer.batch_size // 2 + 1
    moved = [scorer.moved(scorer.run(few, 1), few), scorer.moved(scorer.run(some, odd), some)]
    checks["score_batch_size"] = _scored(
        "Scores do not depend on the size of a batch",
        f"{len(few)} patches in batches of 1, {len(some)} in batches of {odd}, against batches of {scorer.batch_size}",
        max(moved),
    )
    progress.advance(len(few) + len(some))
    checks["recorded_scores"] = _recorded_check(inputs, scorer, rows)
    progress.close()
    return checks


def _sample(shards: PatchShards, images: int, seed: int, split: str) -> NDArray[np.int64]:
    """Rows of the grid patches of some images, half of each label where there are enough, spread over each image."""
    grid = shards.rows_of("grid")
    index = shards.index.take(pa.array(grid))
    ids = np.asarray(index.column("image_id").to_pylist(), dtype=np.str_)
    labels = index.column("image_label").to_numpy()
    random = numpy_generator(seed, f"audit sample, {split}")
    chosen: list[NDArray[np.int64]] = []
    for label in (NORMAL, ANOMALOUS):
        of_label = np.unique(ids[labels == label])
        for image_id in sorted(random.permutation(of_label)[: math.ceil(images / 2)].tolist()):
            own = grid[ids == image_id]
            spread = np.linspace(0, len(own) - 1, min(_PATCHES_PER_IMAGE, len(own))).round().astype(np.intp)
            chosen.append(own[spread])
    return np.concatenate(chosen)


def _scored(title: str, tried: str, moved: tuple[float, str]) -> Check:
    distance, name = moved
    if distance <= TOLERANCE:
        return Check(title, "passed", f"{tried}: no component moves by more than {TOLERANCE:g}.")
    return Check(
        title,
        "leak",
        f"{tried}: {name} moves by {distance:.2g}, more than the rounding of {TOLERANCE:g}. Something in the pair "
        f"mixes the images of a batch, such as batch statistics; replace it, train and score again.",
    )


def _recorded_check(inputs: AuditInputs, scorer: _Scorer, rows: Mapping[str, NDArray[np.int64]]) -> Check:
    title = "The recorded scores are those that this pair gives in evaluation mode"
    start, worst = 0, (0.0, "", "")
    for split in ("test", "calibration"):
        table = inputs.scores[split].filter(pc.equal(inputs.scores[split]["source"], "grid"))
        stop = start + len(rows[split])
        wanted = inputs.shards[split].index.column("patch_id").take(pa.array(rows[split]))
        position = pc.index_in(wanted, value_set=table.column("patch_id").combine_chunks())
        if position.null_count:
            text = f"{position.null_count} sampled {split} patches have no recorded score; run the score stage again."
            return Check(title, "leak", text)
        for name, values in scorer.reference.columns().items():
            if name not in table.column_names:
                return Check(title, "leak", f"the {split} scores lack the component {name}; run the score stage again.")
            recorded = table.column(name).take(position).to_numpy()
            worst = max(worst, (scorer.distance(name, recorded, values[start:stop]), name, split))
        if "stitched_peak" in table.column_names:
            worst = max(
                worst, (_stitched_distance(scorer, inputs.shards[split], rows[split], table), "stitched_peak", split)
            )
        start = stop
    distance, name, split = worst
    if distance <= RECORDED_TOLERANCE:
        return Check(title, "passed", f"{start} patches scored again: within {RECORDED_TOLERANCE:g} of the record.")
    return Check(
        title,
        "leak",
        f"{name} of {split} patches is recorded {distance:.2g} away from what the pair gives now. They were scored by "
        f"another pair, or not in evaluation mode; run the score stage again.",
    )


def _stitched_distance(scorer: _Scorer, shards: PatchShards, rows: NDArray[np.int64], table: pa.Table) -> float:
    """How far the recorded stitched peaks of some of the sampled images lie from those of all their patches, scored
    again; in [0, 1], as the peaks do."""
    sampled = pc.unique(shards.index.column("image_id").take(pa.array(rows))).to_pylist()
    worst = 0.0
    for image_id in sampled[:: max(1, len(sampled) // _STITCHED)][:_STITCHED]:
        own = table.filter(pc.equal(table["image_id"], image_id))
        positions = np.stack([own[name].to_numpy() for name in ("y", "x")], axis=1).astype(np.int64)
        grid = shards.rows_of("grid")
        grid = grid[pc.equal(shards.index.column("image_id").take(pa.array(grid)), image_id).to_numpy()]
        found = with_stitched_peaks(scorer.score(shards.read(grid)), [positions]).stitched_peak
        if found is None or len(found) != own.num_rows:
            return math.inf
        worst = max(worst, float(np.abs(found - own["stitched_peak"].to_numpy()).max()))
    return worst


# --------------------------------------------------------------------------------------------------------------- splits


def split_checks(inputs: AuditInputs, section: AuditSection) -> dict[str, Check]:
    """Looks for test images, their copies and their groups in what training and calibration read."""
    used = {split: set(shards.index.column("image_id").to_pylist()) for split, shards in inputs.shards.items()}
    facts = {
        row["image_id"]: row for row in inputs.manifest.select(["image_id", "sha256", "group", "label"]).to_pylist()
    }
    unknown = sorted(set().union(*used.values()) - set(facts))
    declared = {
        split: set(inputs.splits.filter(pc.equal(inputs.splits["split"], split)).column("image_id").to_pylist())
        for split in used
    }
    title = "No test image is in train or calibration"
    wrong = [f"{i} is in test and in {s}" for s in ("train", "calibration") for i in sorted(used[s] & used["test"])]
    wrong += [
        f"the {s} patches hold {i}, which the split does not" for s in used for i in sorted(used[s] - declared[s])
    ]
    wrong += [f"{i} has patches and is not in the manifest" for i in unknown]
    checks = {"split_images": _overlap(title, wrong, f"{len(used['test'])} test images", "run `dvc repro`")}

    def shared(column: str) -> list[str]:
        of_test: dict[str, str] = {}
        for image_id in sorted(used["test"] & set(facts)):
            of_test.setdefault(facts[image_id][column], image_id)
        return [
            f"{of_test[facts[i][column]]} (test) and {i} ({split})"
            for split in ("train", "calibration")
            for i in sorted(used[split] & set(facts))
            if facts[i][column] in of_test and i not in used["test"]
        ]

    checks["split_content"] = _overlap(
        "No test image has the bytes of one in train or calibration",
        shared("sha256"),
        "SHA-256 of every file compared",
        "remove one of each two, or give both one group, and run `dvc repro`",
    )
    checks["split_groups"] = _overlap(
        "No group of the test split has images in train or calibration",
        shared("group"),
        "groups of every image compared",
        "run `dvc repro`; the split stage keeps groups together",
    )
    others = {split: inputs.shards[split] for split in ("train", "calibration")}
    near = near_duplicates(inputs.shards["test"], others, inputs.patch, section.seed)
    official = _official_splits(inputs, used)
    crossing = [d for d in near.pairs if official.get(d.test_image) == "test" != official.get(d.image, "test")]
    tried = (
        f"{near.test_images} test images; {near.candidates} pairs with near perceptual hashes, compared by detail, "
        f"alike at a distance up to {near.limit:.4f}"
    )
    checks["near_duplicates"] = _overlap(
        "No test image is a near-duplicate of one in train or calibration",
        [_described_pair(d) for d in near.pairs if d not in crossing],
        tried,
        "look at them; remove one of each two, or let data.near_repeats or your listing give both one group, and run "
        "`dvc repro`",
    )
    if official:
        checks[OFFICIAL_NEAR_DUPLICATES] = _official_check(crossing, near.test_images, section.confidence, tried)
    if inputs.rehearsed.num_rows:
        checks["rehearsal"] = _rehearsal_check(inputs, facts, used["test"] & set(facts), section.seed)
    return checks


def _official_splits(inputs: AuditInputs, used: Mapping[str, set[str]]) -> dict[str, str]:
    """The official split of each image; empty where another split than the data set's own is in force."""
    columns = (inputs.manifest[name].to_pylist() for name in ("image_id", "official_split"))
    official = {image_id: split for image_id, split in zip(*columns, strict=True) if split is not None}
    of_test = {official.get(image_id) for image_id in used["test"]}
    of_train = {official.get(image_id) for image_id in used["train"]}
    return official if of_test == {"test"} and None not in of_train and "test" not in of_train else {}


def _described_pair(pair: Duplicate) -> str:
    return f"{pair.test_image} (test) and {pair.image} ({pair.split}), distance {pair.distance:.4f}"


def _official_check(crossing: list[Duplicate], test_images: int, confidence: float, tried: str) -> Check:
    """Whether the data set's own split has near-duplicates on both sides: nobody here moved them, so it is no leak."""
    title = "The official split has no near-duplicates on both sides"
    images = len({pair.test_image for pair in crossing})
    if not images:
        return Check(title, "passed", f"{tried}: none.")
    interval = clopper_pearson(images, test_images, confidence)
    named = "; ".join(_described_pair(pair) for pair in crossing[:_EXAMPLES])
    return Check(
        title,
        "finding",
        f"{images} of {test_images} test images have one, such as {named}. The data set itself puts them there, and "
        f"figures stay comparable with others on its split; they may say too much. To leave the training images out: "
        f"data.near_repeats: everywhere.",
        Share(images / test_images, *interval),
    )


def _rehearsal_check(inputs: AuditInputs, facts: Mapping[str, Report], test: set[str], seed: int) -> Check:
    """Whether what an earlier version learned from, and this one rehearsed, holds what is tested now."""
    title = "No rehearsed sample is of a test image or a near-duplicate of one"
    of_test = {facts[image_id]["sha256"]: image_id for image_id in sorted(test)}
    digests = inputs.rehearsed.column("sha256").to_pylist()
    wrong = [f"{of_test[d]} (test) was rehearsed" for d in sorted(set(digests) & set(of_test))]
    pixels = decode(inputs.rehearsed).pixels
    named = {f"patch {n} of {digest[:12]}": p for n, (digest, p) in enumerate(zip(digests, pixels, strict=True))}
    near = rehearsed_duplicates(named, inputs.shards["test"], inputs.shards["train"], seed)
    wrong += [
        f"{d.test_image} (test) and rehearsed {d.image}, distance {d.distance:.4f}"
        for d in near.pairs
        if facts.get(d.test_image, {}).get("sha256") not in digests
    ]
    return _overlap(
        title,
        wrong,
        f"{len(pixels)} rehearsed patches against those of {near.test_images} test images; {near.candidates} pairs "
        f"with near perceptual hashes, compared by detail",
        "the earlier version has learned from these images: take them out of the test data, or train from scratch "
        "(`vigil train --from scratch`)",
    )


def _overlap(title: str, wrong: list[str], tried: str, advice: str) -> Check:
    if not wrong:
        return Check(title, "passed", f"{tried}: none.")
    return Check(title, "leak", f"{len(wrong)} found, such as {'; '.join(wrong[:_EXAMPLES])}. To mend it: {advice}.")


# -------------------------------------------------------------------------------------------------------------- lineage


def lineage_checks(inputs: AuditInputs) -> dict[str, Check]:
    """Holds the records of training, choice, calibration and evaluation against the data; fits and measures again."""
    makers: dict[str, Callable[[AuditInputs], Check]] = {
        "training_data": _training_data,
        "selection": _selection,
        "calibration_data": _calibration_data,
        "calibration_result": _calibration_result,
        "evaluation": _evaluation,
    }
    return {name: make(inputs) for name, make in makers.items()}


def _training_data(inputs: AuditInputs) -> Check:
    title = "The pair was trained on the train split, and on nothing of the test split"
    wrong = []
    for where, recorded in (("pair.json", inputs.pair_record.get("data")), ("train.json", inputs.training.get("data"))):
        if not isinstance(recorded, Mapping):
            wrong.append(f"{where} does not say which data the pair was trained on")
            continue
        for split in ("train", "calibration"):
            if recorded.get(split) != inputs.shards[split].digest:
                wrong.append(f"{where} records other {split} patches than those in {inputs.shards[split].folder}")
        if "test" in recorded or inputs.shards["test"].digest in recorded.values():
            wrong.append(f"{where} names the test patches among the data of training")
    return _stated(title, wrong, "Digests in pair.json and train.json are those of the train and calibration patches.")


def _selection(inputs: AuditInputs) -> Check:
    title = "The candidate and its last step were chosen without test data"
    selection = inputs.training.get("selection")
    if not isinstance(selection, Mapping):
        return Check(title, "leak", "train.json does not say how the pair was chosen; run the train stage again.")
    wrong = []
    criterion, values = str(selection["criterion"]), selection["values"]
    if not criterion.startswith("calibration_"):
        wrong.append(f"the criterion is '{criterion}', and only one on calibration data may decide")
    best = (max if selection["higher_is_better"] else min)(values.values())
    if values[selection["chosen"]] != best:
        wrong.append(f"'{selection['chosen']}' was chosen, although it is not the best by '{criterion}'")
    if inputs.pair_record.get("candidate") != selection["chosen"]:
        wrong.append(f"the pair is candidate '{inputs.pair_record.get('candidate')}', chosen was another")
    for name, candidate in inputs.training.get("candidates", {}).items():
        train, patches = candidate["train"], inputs.training["train_patches"]
        planned = math.ceil(max(round(train["epochs"] * patches), 1) / train["batch_size"]) * train["batch_size"]
        if inputs.training["images_seen"][name] < planned:
            seen = inputs.training["images_seen"][name]
            wrong.append(f"'{name}' stands at {seen} images of the {planned} planned, and nothing says who stopped it")
    return _stated(title, wrong, f"Chosen by {criterion.replace('_', ' ')}; every candidate stands at its last step.")


def _calibration_data(inputs: AuditInputs) -> Check:
    title = "Weights, scale and threshold were fitted on the calibration scores"
    found, wrong = scores_digest(inputs.scores["calibration"]), []
    if inputs.calibration.inputs_digest != found:
        of_test = inputs.calibration.inputs_digest == scores_digest(inputs.scores["test"])
        what = "the test scores" if of_test else "other scores than those of the calibration split"
        wrong.append(f"calibration.json records the digest of {what}")
    held = set(inputs.scores["calibration"].column("patch_id").to_pylist())
    if foreign := held - set(inputs.shards["calibration"].index.column("patch_id").to_pylist()):
        wrong.append(f"{len(foreign)} scored patches are not of the calibration split, such as {min(foreign)}")
    return _stated(title, wrong, f"Recorded digest {found[:12]} is that of the calibration scores.")


def _calibration_result(inputs: AuditInputs) -> Check:
    title = "Calibration scores alone give weights, scale and threshold again, to the last bit"
    calibration, test = inputs.scores["calibration"], inputs.scores["test"]
    if _fits(inputs, calibration):
        return Check(title, "passed", f"Fitted again: threshold {inputs.calibration.threshold:.6g}, and all else.")
    both = pa.concat_tables([calibration, test], promote_options="default")
    source = next(
        (name for name, table in (("test", test), ("calibration and test", both)) if _fits(inputs, table)), ""
    )
    refuted = f"The {source} scores give it: it was fitted on test data." if source else ""
    with suppress(VigilError):
        again = fit_calibration(calibration, inputs.calibrate).threshold
        refuted = refuted or f"They give the threshold {again:.6g}, the record has {inputs.calibration.threshold:.6g}."
    return Check(title, "leak", f"{refuted} Run the calibrate stage again, with the `calibrate` section as it stands.")


def _fits(inputs: AuditInputs, scores: pa.Table) -> bool:
    with suppress(VigilError):
        again = fit_calibration(scores, inputs.calibrate).model_copy(update={"inputs_digest": ""})
        return again == inputs.calibration.model_copy(update={"inputs_digest": ""})
    return False


def _evaluation(inputs: AuditInputs) -> Check:
    title = "The evaluation is of these test scores, at the calibrated threshold"
    images = images_of(inputs.scores["test"])
    calibration, wrong = inputs.calibration, []
    scores = image_scores(calibration.patch_scores(images.components), images.patch_image, calibration.reduction)
    recorded = inputs.evaluation["auroc"]
    both = 0 < int((images.labels == ANOMALOUS).sum()) < len(images.labels)
    again = auroc(images.labels, scores) if both else math.nan
    value = math.nan if recorded is None else float(recorded["value"])
    if not (math.isclose(again, value, rel_tol=1e-12) or (math.isnan(again) and math.isnan(value))):
        wrong.append(f"the recorded AUROC is {value}, the recorded scores give {again}")
    threshold = inputs.evaluation["threshold"]
    threshold = threshold["value"] if isinstance(threshold, Mapping) else threshold
    if threshold != calibration.threshold:
        wrong.append(f"verdicts were given at the threshold {threshold}, calibrated was {calibration.threshold}")
    if inputs.evaluation["test_digest"] != digest_of_test(images, inputs.manifest):
        wrong.append("the evaluation is of other test images")
    return _stated(title, wrong, f"AUROC measured again on {len(images.ids)} images: the same.")


def _stated(title: str, wrong: Iterable[str], fine: str) -> Check:
    listed = list(wrong)
    if not listed:
        return Check(title, "passed", fine)
    return Check(title, "leak", f"{'; '.join(listed)}. Run `dvc repro` to make it anew.")


# ------------------------------------------------------------------------------------------------------------ shortcuts


def shortcut_check(
    inputs: AuditInputs, section: AuditSection, order_seen: bool = False
) -> tuple[Check, dict[str, Separation], tuple[str, ...]]:
    """Whether trivial features sort the test split: the check, how well each does, and the names of those that do.

    Args:
        inputs: Whose raw test images are measured.
        section: What counts as a finding.
        order_seen: Scores depend on the order of the images, so that the position in the file order counts too.
    """
    title = "Trivial features do not already separate the test split"
    ids = sorted(set(inputs.shards["test"].index.column("image_id").to_pylist()))
    found = separations(trivial_images(inputs.manifest, ids, inputs.root, section.seed), section)
    shortcuts = tuple(
        name
        for name, separation in found.items()
        if separation.low is not None
        and separation.low > section.shortcut_auroc
        and (order_seen or name != POSITION)  # what no score can see is no shortcut
    )
    return _described(title, found, shortcuts, section), found, shortcuts


def _described(title: str, found: Mapping[str, Separation], shortcuts: tuple[str, ...], section: AuditSection) -> Check:
    if not found:
        return Check(title, "not_checked", "The test split holds images of one label only.")
    best = max((name for name in found if name != POSITION), key=lambda n: found[n].auroc, default=None)
    position = found.get(POSITION)
    seen = ""
    if position is not None and POSITION not in shortcuts:
        seen = (
            f"\nThe position in the file order gives {position.auroc:.3f}; no score can see it, since scores do not "
            f"depend on the order."
        )
    if shortcuts:
        named = ", ".join(f"{n} {_interval(found[n])}" for n in shortcuts)
        return Check(
            title,
            "shortcut",
            f"AUROC [{section.confidence:.0%} interval]: {named}. An AUROC on this split may say how images were made, "
            f"not what they show: compare parts of the same images, or balance the data.{seen}",
        )
    shown = "every feature is constant" if best is None else f"the best is {best}, AUROC {_interval(found[best])}"
    return Check(title, "passed", f"No lower bound lies above {section.shortcut_auroc:g}; {shown}.{seen}")


def _interval(found: Separation) -> str:
    bounds = ", ".join("-" if bound is None else f"{bound:.3f}" for bound in (found.low, found.high))
    return f"{found.auroc:.3f} [{bounds}]"
