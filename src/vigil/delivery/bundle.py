"""The bundle: one folder that can screen images on its own.

    bundle.json           format version, SHA-256 of every other file, what was learned from what and how good it is
    pair/                 generator.safetensors, discriminator.safetensors, [memory.safetensors,] pair.json
    calibration.json      components to score, score scale, threshold
    preprocessing.json    the patch grid, and which images are accepted at all
    appearance.json       how the normal images of calibration look

Equal inputs give equal bytes: no time, host, user or commit is written. `bundle.json`'s `digest` covers everything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import vigil
from vigil.calibration.calibration import Calibration
from vigil.config import PatchSection, ValidateSection, explain
from vigil.errors import BundleMismatch, CheckpointError, DataError
from vigil.files import digest_file, digest_json, files_below, read_json, write_json, written_aside
from vigil.images.appearance import Appearance
from vigil.networks.pair import Pair, load_pair

FORMAT_VERSION = 3
"""Of the files, and of what the scores mean that a threshold was fitted on. 2: peaks of log-odds, maps spread by a
Gaussian. 3: stitched peaks are of squares."""
RECORD, PAIR, CALIBRATION, PREPROCESSING = "bundle.json", "pair", "calibration.json", "preprocessing.json"
APPEARANCE = "appearance.json"
_FIGURES = ("auroc", "recall", "fpr", "threshold")
_Model = TypeVar("_Model", bound=BaseModel)
MACHINE_SETTINGS = {"workers", "buckets", "executor", "scheduler"}
"""Of PatchSection: they change how fast patches are cut, never which."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Estimate(_Record):
    """A number with its interval (bounds are None where none was estimated)."""

    value: float
    low: float | None = None
    high: float | None = None


class Beside(_Record):
    """What a version and its parent reach on the same images, each at its own threshold; None as in the summary."""

    digest: str
    """Of the images."""
    auroc: Estimate | None
    parent_auroc: Estimate | None
    parent_recall: Estimate | None
    parent_fpr: Estimate | None


class ParentSummary(_Record):
    """Of a version that was trained from another one."""

    version: int
    bundle: str
    """Digest of the parent's bundle."""
    old: Beside
    """On test images that were kept with the parent."""
    new: Beside
    """On the version's own test images."""


class EvaluationSummary(_Record):
    """The headline numbers of a test; None where the test split cannot give the number (no anomalies, no normals)."""

    auroc: Estimate | None
    recall: Estimate | None
    fpr: Estimate | None
    threshold: Estimate
    parent: ParentSummary | None = Field(default=None, exclude_if=lambda parent: parent is None)
    """None: trained from scratch."""

    @property
    def figures(self) -> dict[str, Estimate]:
        """The numbers that were measured, by name."""
        found = {name: getattr(self, name) for name in _FIGURES}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> EvaluationSummary:
        """The headline numbers of `reports/evaluation.json`: each a number, null, or `{value, low, high, ...}`.

        Raises:
            DataError: One is missing or is not a number.
        """
        found: dict[str, Any] = {}
        for key in _FIGURES:
            entry = report.get(key, "nothing")
            if isinstance(entry, Mapping):
                entry = {"value": entry.get("value", "nothing"), "low": entry.get("low"), "high": entry.get("high")}
            else:
                entry = {"value": entry}
            found[key] = None if entry["value"] is None else entry
        if (parent := report.get("parent")) is not None:
            found["parent"] = _shortened_to(ParentSummary, parent)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise DataError(explain(error, "evaluation report")) from error


def _shortened_to(model: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `value`, a part of the report, that `model` has, at every depth."""
    short: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        entry = value.get(name)
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isclass(t) and issubclass(t, BaseModel)]
        short[name] = _shortened_to(inner[0], entry) if inner and isinstance(entry, Mapping) else entry
    return short


class AuditSummary(_Record):
    """What the leakage audit found, as far as a promotion judges it."""

    leaks: tuple[str, ...]
    """Checks that found a leak."""
    findings: dict[str, Estimate]
    """Trivial features that separate the test split, and their AUROC; other findings, and the share of the test images
    that they are about."""
    digest: str
    """SHA-256 of reports/audit.json."""

    @classmethod
    def of(cls, report: Mapping[str, Any], digest: str) -> AuditSummary:
        """The findings of `reports/audit.json`, whose SHA-256 is `digest`."""
        findings = {
            name: Estimate(value=row["auroc"] if "auroc" in row else row["share"], low=row["low"], high=row["high"])
            for name, row in report["findings"].items()
        }
        return cls(leaks=tuple(report["leaks"]), findings=findings, digest=digest)


class Recalibrated(_Record):
    """Of a bundle whose threshold was fitted on other images than its pair was chosen with."""

    bundle: str
    """Digest of the bundle whose pair and preprocessing it has."""
    images: str
    """Digest of the images: of the contents of the files and their labels, whatever their order."""
    normal: int
    anomalous: int


class BundleRecord(_Record):
    """What `bundle.json` says."""

    format_version: int
    vigil_version: str
    data_set: str
    kinds: tuple[str, ...]
    """Kinds of anomaly in the test split."""
    data_digest: str
    """Of everything the pair was trained on."""
    test_digest: str
    """Of the images that `evaluation` was measured on; only equal ones can be compared."""
    map_level: float
    """What the anomaly map of a normal image rarely exceeds; regions are the parts of a map above it."""
    evaluation: EvaluationSummary
    audit: AuditSummary | None = None
    """None where the bundle was made by a version of Vigil without an audit."""
    recalibrated: Recalibrated | None = Field(default=None, exclude_if=lambda source: source is None)
    """None: the threshold is of the data set's own calibration images. Else `evaluation` holds the threshold alone, and
    `test_digest` is that of the images it was fitted on."""
    files: dict[str, str]
    """SHA-256 of every file but `bundle.json` itself."""
    digest: str
    """SHA-256 of all the above."""


class _Preprocessing(_Record):
    patch: PatchSection
    accept: ValidateSection


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, verified bundle."""

    folder: Path
    record: BundleRecord
    pair: Pair
    calibration: Calibration
    patch: PatchSection
    accept: ValidateSection
    """Size and mode that an image must have to be screened: the contract that the training images kept."""
    appearance: Appearance | None
    """How the normal images of calibration look; None where a version of Vigil made the bundle that did not say."""


def write_bundle(
    folder: Path,
    *,
    pair: Path,
    calibration: Calibration,
    patch: PatchSection,
    accept: ValidateSection,
    appearance: Appearance,
    data_set: str,
    kinds: Sequence[str],
    data_digest: str,
    test_digest: str,
    map_level: float,
    evaluation: EvaluationSummary,
    audit: AuditSummary | None,
    recalibrated: Recalibrated | None = None,
) -> BundleRecord:
    """Writes the bundle at `folder`, aside then renamed, and returns its record.

    Args:
        folder: Where; a predecessor is replaced.
        pair: The folder of the trained pair, as `networks.pair.save_pair` wrote it; verified before it is copied.
        calibration, patch, accept: What turns an image into a verdict.
        appearance: Of the normal images of calibration.
        data_set, kinds, data_digest, test_digest, map_level, evaluation, audit, recalibrated: See `BundleRecord`.

    Raises:
        CheckpointError: The pair's folder is damaged.
        BundleMismatch: The pair does not fit the patches.
    """
    spec = load_pair(pair)[0].spec
    _check_fit(pair, spec.channels, spec.patch_size_px, patch)
    with written_aside(Path(folder)) as new:
        new.mkdir(parents=True)
        shutil.copytree(pair, new / PAIR)
        write_json(new / CALIBRATION, calibration.model_dump(mode="json"))
        preprocessing = {
            "patch": patch.model_dump(mode="json", exclude=MACHINE_SETTINGS),
            "accept": accept.model_dump(mode="json"),
        }
        write_json(new / PREPROCESSING, preprocessing)
        write_json(new / APPEARANCE, appearance.model_dump(mode="json"))
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "vigil_version": vigil.__version__,
            "data_set": data_set,
            "kinds": sorted(kinds),
            "data_digest": data_digest,
            "test_digest": test_digest,
            "map_level": map_level,
            "evaluation": evaluation.model_dump(mode="json"),
            "audit": None if audit is None else audit.model_dump(mode="json"),
            **({} if recalibrated is None else {"recalibrated": recalibrated.model_dump(mode="json")}),
            "files": {p.relative_to(new).as_posix(): digest_file(p) for p in files_below(new)},
        }
        content["digest"] = digest_json(content)
        write_json(new / RECORD, content)
    return BundleRecord.model_validate_json(json.dumps(content))


def read_record(folder: Path) -> BundleRecord:
    """The record of a bundle, its own digest verified; the other files are not opened.

    Raises:
        BundleMismatch: The record is missing, damaged, or of a format that this version does not read.
    """
    path = Path(folder) / RECORD
    try:
        content = read_json(path)
    except (DataError, OSError) as error:
        raise BundleMismatch(
            f"{path}: no readable bundle record. Expected a bundle folder with bundle.json, pair/, calibration.json "
            f"and preprocessing.json; run `dvc repro` to build models/bundle, or name another folder."
        ) from error
    version = content.get("format_version") if isinstance(content, Mapping) else None
    if version != FORMAT_VERSION:
        raise BundleMismatch(
            f"{path}: expected bundle format version {FORMAT_VERSION}, found {version!r}. "
            f"Open it with the Vigil version that wrote it, or rebuild it with `dvc repro`."
        )
    try:
        found = digest_json({key: value for key, value in content.items() if key != "digest"})
    except ValueError as error:  # a number that is not finite, or half a character
        raise BundleMismatch(
            f"{path}: the record was changed after it was written ({error}). Copy the bundle again, or rebuild it with "
            f"`dvc repro`."
        ) from error
    if found != content.get("digest"):
        raise BundleMismatch(
            f"{path}: the record was changed after it was written: it names digest {content.get('digest')!r}, its "
            f"content has {found}. Copy the bundle again, or rebuild it with `dvc repro`."
        )
    return _parsed(path, BundleRecord)


def verify_bundle(folder: Path) -> BundleRecord:
    """The bundle's record, after every byte of the folder was held against it.

    Raises:
        BundleMismatch: A file is missing, unknown or changed; names it.
    """
    folder = Path(folder)
    record = read_record(folder)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - {RECORD}
    for what, wrong in (("missing", set(record.files) - names), ("not part of the bundle", names - set(record.files))):
        if wrong:
            raise BundleMismatch(
                f"{folder / min(wrong)}: {what} ({len(wrong)} such file(s)); bundle.json lists {len(record.files)} "
                f"files. Copy the bundle again, or rebuild it with `dvc repro`."
            )
    for name, expected in record.files.items():
        if (found := digest_file(folder / name)) != expected:
            raise BundleMismatch(
                f"{folder / name}: changed after the bundle was written: expected SHA-256 {expected}, found {found}. "
                f"Copy the bundle again, or rebuild it with `dvc repro`."
            )
    return record


def load_bundle(folder: Path) -> Bundle:
    """Opens a bundle after verifying every byte of it; the pair is on the CPU, in evaluation mode.

    Raises:
        BundleMismatch: A file is missing, unknown or changed, or the parts do not fit each other; names the file.
    """
    folder = Path(folder)
    record = verify_bundle(folder)
    try:
        pair = load_pair(folder / PAIR)[0]
    except CheckpointError as error:
        raise BundleMismatch(f"{folder / PAIR}: the pair does not open: {error}") from error
    calibration = _parsed(folder / CALIBRATION, Calibration)
    preprocessing = _parsed(folder / PREPROCESSING, _Preprocessing)
    _check_fit(folder, pair.spec.channels, pair.spec.patch_size_px, preprocessing.patch)
    appearance = _parsed(folder / APPEARANCE, Appearance) if APPEARANCE in record.files else None
    pair.eval()
    return Bundle(folder, record, pair, calibration, preprocessing.patch, preprocessing.accept, appearance)


def _check_fit(where: Path, channels: int, patch_size_px: int, patch: PatchSection) -> None:
    if (channels, patch_size_px) != (patch.channels, patch.patch_size_px):
        raise BundleMismatch(
            f"{where}: the pair takes patches of {patch_size_px} px with {channels} channel(s), preprocessing cuts "
            f"{patch.patch_size_px} px with {patch.channels}. Run `dvc repro` so that both come of one params file."
        )


def _parsed(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleMismatch(explain(error, str(path))) from error
