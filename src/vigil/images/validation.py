"""Data contracts, held with Great Expectations: on the manifest, and on the patch index.

The manifest says what is; this module says whether that will do. A broken contract stops the pipeline with a list of
what failed and for which files. The same page that Data Docs would give is rendered by `validation_report`, because
theirs links style sheets on the network, and nothing here may depend on the time or on a run's id.

Both contracts are held part by part. What must be known of the set as a whole is kept as numbers: 9 bytes per image of
the manifest (and three times that while they are sorted), 18 per image of the patch index. Failures go to a file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vigil.config import DriftSection, PatchSection, ValidateSection
from vigil.errors import ValidationFailed
from vigil.images.drift import LABEL_NAMES, STATISTICS, Reference, Statistics, chance, distance
from vigil.images.patches import grid_positions
from vigil.images.source import MODE_ADVICE
from vigil.images.validation_report import FAILURES, QUARANTINED, failed_folder, failure_log, message, write_report
from vigil.images.validation_rules import Contract, Row, Rule
from vigil.progress import Progress
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND, PATCH_INDEX, SPLIT_TABLE

if TYPE_CHECKING:
    import pandas as pd

_ROWS_PER_PART = 10_000
_OVERLAP_ROUNDING = 1e-6
Scan = Callable[[Sequence[str] | None], Iterable[pa.Table]]
"""Gives the rows of a table again and again, part by part, with the named columns or (None) all of them."""


def scan_table(table: pa.Table) -> Scan:
    """Of a table in memory."""

    def parts(columns: Sequence[str] | None) -> Iterator[pa.Table]:
        chosen = table if columns is None else table.select(list(columns))
        yield from (chosen.slice(start, _ROWS_PER_PART) for start in range(0, table.num_rows, _ROWS_PER_PART))

    return parts


def scan_file(file: pq.ParquetFile) -> Scan:
    """Of an open file, which is read part by part."""

    def parts(columns: Sequence[str] | None) -> Iterator[pa.Table]:
        chosen = None if columns is None else list(columns)
        for batch in file.iter_batches(_ROWS_PER_PART, columns=chosen):
            yield pa.Table.from_batches([batch])

    return parts


# ------------------------------------------------------------------------------------------------------------- manifest


def validate_manifest(
    manifest: pa.Table,
    validate: ValidateSection,
    root: Path,
    report_folder: Path,
    reference: Reference | None = None,
) -> pa.Table:
    """`accepted_parts` of a manifest in memory, as one table."""
    parts = accepted_parts(scan_table(manifest), manifest.num_rows, validate, root, report_folder, reference)
    return pa.concat_tables([manifest.slice(0, 0), *parts])


def accepted_parts(
    manifest: Scan,
    images: int,
    validate: ValidateSection,
    root: Path,
    report_folder: Path,
    reference: Reference | None = None,
) -> Iterator[pa.Table]:
    """Yields the rows of the manifest that keep the contract, which without quarantine is all of them.

    Every rule on single images is held against the whole manifest; rules on the set as a whole (enough normal images,
    every kind still there, no drift) against the images that break none. So the verdict comes after the last part:
    what was made of the parts counts only if the iteration ends. Writes `index.html`, `validation.json`, with a
    reference `statistics.json` and, if any image was put aside, `quarantined.csv` into `report_folder`, which is
    replaced as a whole. On failure `report_folder` stays as it is, and the report, with `failures.csv`, goes to
    `failed_folder(report_folder)`; `statistics.json` is there only if drift alone is what failed.

    Args:
        manifest: records.MANIFEST, sorted by image_id.
        images: Rows of the manifest.
        validate: The contract.
        root: Folder of the raw data set, named in the list of failures.
        report_folder: Of the report.
        reference: The accepted set to compare with; None: neither compare nor leave statistics.

    Raises:
        ValidationFailed: A rule on single images is broken and `validate.quarantine` is false, or a rule on the set is
            broken. Lists every failed expectation and the first 20 files with reasons.
    """
    import pandas as pd

    contradicted = _labels_of_repeated_content(manifest)
    contract = Contract(_image_rules(validate), "image_id", lambda row: f"{root}/{row['path']}")
    found: Counter[tuple[int, str]] = Counter()
    modes: Counter[str] = Counter()
    kept, usable, statistics = 0, Counter[tuple[int, str]](), Statistics()
    previous_id = None
    progress = Progress("validate", images, "images")
    with failure_log(report_folder) as log:
        for part in manifest(None):
            frame = _manifest_frame(part, validate, contradicted, previous_id)
            previous_id = frame["image_id"].iloc[-1]
            failures, bad = contract.check(frame)
            log.add(failures)
            good = part.take(pa.array(np.setdiff1d(np.arange(part.num_rows), np.array(bad, dtype=np.int64))))
            found.update(zip(part["label"].to_pylist(), part["kind"].to_pylist(), strict=True))
            usable.update(zip(good["label"].to_pylist(), good["kind"].to_pylist(), strict=True))
            modes.update(mode for mode in part["mode"].to_pylist() if mode is not None)
            statistics.add(good)
            kept += good.num_rows
            progress.advance(part.num_rows)
            if good.num_rows:
                yield good
        quarantined = images - kept

        rows = [(label, kind, found[label, kind], usable[label, kind]) for label, kind in sorted(found)]
        kinds = pd.DataFrame(rows, columns=["label", "kind", "found", "usable"])
        kinds["item"] = "kind '" + kinds["kind"] + "'"
        kinds["normal_images"] = kinds["usable"].where(kinds["label"] == NORMAL, 0)
        kinds["usable_label"] = kinds["label"].where(kinds["usable"] > 0)
        of_set = [(Contract(_set_rules(validate), "item", lambda _: ""), kinds)]
        of_drift = []
        if reference is not None and reference.accepted is not None:
            of_drift = _drift_contracts(statistics, reference.accepted, validate.drift)
        for whole, table in [*of_set, *of_drift]:
            log.add(whole.check(table)[0])

        drift = [outcome for whole, _ in of_drift for outcome in whole.outcomes]
        others = [*contract.outcomes, *of_set[0][0].outcomes]
        set_broken = any(not o.passed for o in (*of_set[0][0].outcomes, *drift))
        stops = set_broken or (bool(quarantined) and not validate.quarantine)
        only_drift = stops and all(o.passed for o in of_set[0][0].outcomes) and (validate.quarantine or not quarantined)
        overview = {
            "Images": images,
            "Accepted": 0 if stops else kept,
            "Quarantined": quarantined if validate.quarantine else 0,
            **{f"Kind '{kind}'": n for kind, n in sorted(_sum_by_kind(found).items())},
            **{f"Mode {mode}": n for mode, n in sorted(modes.items())},
        }
        extra = {}
        if reference is not None and (only_drift or not stops):
            extra[STATISTICS] = {"data": reference.data, "statistics": statistics.as_json()}
        folder = failed_folder(report_folder) if stops else Path(report_folder)
        csv_name = FAILURES if stops else QUARANTINED
        write_report(folder, "Raw images", overview, [*others, *drift], log, csv_name, extra)
        if stops:
            advice = "Repair or remove the files and run `dvc repro` again"
            if only_drift:
                advice = (
                    "Find out why the data changed; if they are meant to, `vigil data accept` makes them the set to "
                    "compare with"
                )
            elif quarantined and not validate.quarantine:
                advice += ", or set validate.quarantine to true to go on without them"
            raise ValidationFailed(message("the raw images", [*others, *drift], log, folder) + f"\n{advice}.")
        shutil.rmtree(failed_folder(report_folder), ignore_errors=True)
        progress.close(f"{quarantined} quarantined, see {folder / csv_name}" if quarantined else "all accepted")


def _sum_by_kind(counts: Counter[tuple[int, str]]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for (_, kind), count in counts.items():
        kinds[kind] += count
    return kinds


def _labels_of_repeated_content(manifest: Scan) -> set[str]:
    """The SHA-256 of every readable content that occurs with more than one label.

    Keeps 9 bytes per image: the first 64 bits of the hash, and the label. Contents that agree in those are looked at
    again in full.
    """
    hashes, labels = [], []
    columns = ["sha256", "label", "width"]
    for part in manifest(columns):
        readable = part.filter(part["width"].is_valid())
        hashes.append(np.array([int(text[:16], 16) for text in readable["sha256"].to_pylist()], dtype=np.uint64))
        labels.append(readable["label"].to_numpy())
    if not hashes:
        return set()
    hash_of, label_of = np.concatenate(hashes), np.concatenate(labels)
    del hashes, labels
    order = np.argsort(hash_of, kind="stable")
    hash_of, label_of = hash_of[order], label_of[order]
    # Neighbours with one hash and two labels: sorted by hash, then in the order of the rows.
    clash = (hash_of[1:] == hash_of[:-1]) & (label_of[1:] != label_of[:-1])
    suspects = set(hash_of[1:][clash].tolist())
    if not suspects:
        return set()
    labels_of: dict[str, set[int]] = {}
    for part in manifest(columns):
        readable = part.filter(part["width"].is_valid())
        for text, label in zip(readable["sha256"].to_pylist(), readable["label"].to_pylist(), strict=True):
            if int(text[:16], 16) in suspects:
                labels_of.setdefault(text, set()).add(label)
    return {text for text, found in labels_of.items() if len(found) > 1}


_RULE_COLUMNS = ["image_id", "path", "sha256", "width", "height", "mode", "label", "kind", "mask_path", "mask_pixels"]
_RULE_COLUMNS += ["fault", "fault_of"]


def _manifest_frame(
    part: pa.Table, validate: ValidateSection, contradicted: set[str], previous_id: str | None
) -> pd.DataFrame:
    """A part of the manifest with the columns that rules are about."""
    frame: pd.DataFrame = part.select(_RULE_COLUMNS).to_pandas()
    width, height = frame["width"].astype("float64"), frame["height"].astype("float64")
    frame["shorter_side_px"] = np.minimum(width, height)
    frame["pixels"] = width * height
    frame["label_by_kind"] = np.select(
        [frame["kind"] == NORMAL_KIND, frame["kind"].str.len() > 0], [NORMAL, ANOMALOUS], default=-1
    )
    frame["first_of_its_id"] = frame["image_id"] != frame["image_id"].shift(fill_value=previous_id or "")
    frame["contradicted"] = frame["sha256"].isin(contradicted) & width.notna()
    for what in ("image", "annotation", "box", "mask"):
        frame[f"{what}_fault"] = frame["fault"].where(frame["fault_of"] == what)
    empty = frame["mask_pixels"] == 0
    listed = frame["image_id"].isin(validate.empty_masks_allowed)
    wrong = (frame["label"] == ANOMALOUS) & (frame["mask_pixels"].notna()) & (empty != listed)
    frame["unmarked"] = frame["mask_path"].where(wrong)
    return frame


def _image_rules(validate: ValidateSection) -> list[Rule]:
    modes = ", ".join(validate.modes)

    def about_mode(row: Row) -> str:
        what = MODE_ADVICE.get(row["mode"], f"has the mode {row['mode']}; convert it to one of {modes}")
        return f"{what} (mode {row['mode']}; accepted are {modes})"

    def about_mask(row: Row) -> str:
        if row["mask_pixels"] == 0:
            return (
                f"its mask {row['mask_path']} is empty (all zero) although the image is anomalous; correct it, or list "
                f"the image in validate.empty_masks_allowed"
            )
        return (
            f"listed in validate.empty_masks_allowed, but its mask {row['mask_path']} marks {row['mask_pixels']:.0f} "
            f"pixels; take it off the list"
        )

    def without(what: str) -> tuple[str, dict[str, Any], Callable[[Row], str]]:
        return "ExpectColumnValuesToBeNull", {"column": f"{what}_fault"}, lambda row: str(row[f"{what}_fault"])

    rules = [
        Rule("every image decodes completely", *without("image")),
        Rule("every annotation is readable and of an image of this size", *without("annotation")),
        Rule("every box is inside its image and not empty", *without("box")),
        Rule("every mask is readable, has its image's size, and marks nothing on a normal image", *without("mask")),
        Rule(
            "the mask of an anomalous image marks something"
            + (f" (but for {len(validate.empty_masks_allowed)} listed)" if validate.empty_masks_allowed else ""),
            "ExpectColumnValuesToBeNull",
            {"column": "unmarked"},
            about_mask,
        ),
        Rule(
            "every image has an id of its own",
            "ExpectColumnValuesToBeInSet",
            {"column": "first_of_its_id", "value_set": [True]},
            lambda _: "another image has the same id",
        ),
        Rule(
            f"the shorter side has at least {validate.min_side_px} pixels",
            "ExpectColumnValuesToBeBetween",
            {"column": "shorter_side_px", "min_value": validate.min_side_px},
            lambda row: (
                f"{row['width']:.0f}x{row['height']:.0f} pixels; the shorter side must have at least "
                f"{validate.min_side_px} (validate.min_side_px)"
            ),
        ),
        Rule(
            f"no image has more than {validate.max_pixels} pixels",
            "ExpectColumnValuesToBeBetween",
            {"column": "pixels", "max_value": validate.max_pixels},
            lambda row: (
                f"{row['width']:.0f}x{row['height']:.0f} pixels, more than {validate.max_pixels} (validate.max_pixels)"
            ),
        ),
        Rule(
            f"the pixel mode is one of {modes}, 8 bits per channel",
            "ExpectColumnValuesToBeInSet",
            {"column": "mode", "value_set": list(validate.modes)},
            about_mode,
        ),
        Rule(
            "the label is 0 (normal) or 1 (anomalous)",
            "ExpectColumnValuesToBeInSet",
            {"column": "label", "value_set": [NORMAL, ANOMALOUS]},
            lambda row: f"the label is {row['label']}",
        ),
        Rule(
            "the kind is known and agrees with the label",
            "ExpectColumnPairValuesToBeEqual",
            {"column_A": "label", "column_B": "label_by_kind"},
            lambda row: f"the label is {row['label']}, but the kind is '{row['kind']}'",
        ),
        Rule(
            "no picture is both normal and anomalous",
            "ExpectColumnValuesToBeInSet",
            {"column": "contradicted", "value_set": [False]},
            lambda row: f"the same file (sha256 {row['sha256'][:12]}...) also occurs with the other label",
        ),
    ]
    if validate.kinds is not None:
        known = ", ".join(validate.kinds)
        rules.append(
            Rule(
                f"the kind is one of {known}",
                "ExpectColumnValuesToBeInSet",
                {"column": "kind", "value_set": [NORMAL_KIND, *validate.kinds]},
                lambda row: f"the kind '{row['kind']}' is not known; expected one of {known} (validate.kinds)",
            )
        )
    return rules


def _set_rules(validate: ValidateSection) -> list[Rule]:
    return [
        Rule(
            f"at least {validate.min_normal_images} normal images",
            "ExpectColumnSumToBeBetween",
            {"column": "normal_images", "min_value": validate.min_normal_images},
            lambda seen: (
                f"found {seen['observed']:.0f} usable normal images, expected at least {validate.min_normal_images} "
                f"(validate.min_normal_images); add some"
            ),
            of_rows=False,
        ),
        Rule(
            "both classes are there, normal and anomalous",
            "ExpectColumnDistinctValuesToContainSet",
            {"column": "usable_label", "value_set": [NORMAL, ANOMALOUS]},
            lambda _: (
                "a class is missing: the usable images are all normal, or all anomalous; normal ones are needed to "
                "train, anomalous ones to evaluate"
            ),
            of_rows=False,
        ),
        Rule(
            "no kind is lost with the images that break a rule",
            "ExpectColumnValuesToBeBetween",
            {"column": "usable", "min_value": 1},
            lambda row: f"none of its {row['found']} images is usable",
        ),
    ]


def _drift_contracts(now: Statistics, accepted: Statistics, drift: DriftSection) -> list[tuple[Contract, pd.DataFrame]]:
    """Counts and brightness within bounds of the accepted set: a row per kind, and a row per label."""
    import pandas as pd

    names = sorted({*now.images_of_kind, *accepted.images_of_kind})
    counts = pd.DataFrame(
        [(f"kind '{name}'", now.images_of_kind[name], accepted.images_of_kind[name]) for name in names],
        columns=["item", "images", "accepted"],
    )
    counts["fewest"] = counts["accepted"] / drift.max_count_ratio
    counts["most"] = counts["accepted"] * drift.max_count_ratio
    brightness = pd.DataFrame({"label": list(LABEL_NAMES)})
    brightness["item"] = [f"{name} images" for name in LABEL_NAMES.values()]
    pairs = [(now.brightness[label], accepted.brightness[label]) for label in LABEL_NAMES]
    brightness["distance"] = [distance(*pair) for pair in pairs]
    brightness["bound"] = [drift.max_brightness_distance + chance(int(a.sum()), int(b.sum())) for a, b in pairs]

    def about_count(row: Row) -> str:
        return (
            f"{row['images']} images, {row['accepted']} in the accepted set; allowed are {np.ceil(row['fewest']):.0f} "
            f"to {np.floor(row['most']):.0f} (validate.drift.max_count_ratio {drift.max_count_ratio:g})"
        )

    at_least = "ExpectColumnPairValuesAToBeGreaterThanB"
    ratio = f"{drift.max_count_ratio:g} times"
    of_counts = [
        Rule(
            f"no kind has shrunk by more than {ratio} since the accepted set",
            at_least,
            {"column_A": "images", "column_B": "fewest", "or_equal": True},
            about_count,
        ),
        Rule(
            f"no kind is new or has grown by more than {ratio} since the accepted set",
            at_least,
            {"column_A": "most", "column_B": "images", "or_equal": True},
            about_count,
        ),
    ]
    of_brightness = [
        Rule(
            "the images are as bright as those of the accepted set",
            at_least,
            {"column_A": "bound", "column_B": "distance", "or_equal": True},
            lambda row: (
                f"their brightness is {row['distance']:.3f} away from that of the accepted set (Kolmogorov-Smirnov); "
                f"allowed are {row['bound']:.3f} (validate.drift.max_brightness_distance, and chance)"
            ),
        )
    ]
    return [
        (Contract(of_counts, "item", lambda _: ""), counts),
        (Contract(of_brightness, "item", lambda _: ""), brightness),
    ]


# ---------------------------------------------------------------------------------------------------------- patch index


def validate_patch_index(
    folder_by_split: Mapping[str, Path], patch: PatchSection, report_folder: Path, splits: Path | None = None
) -> None:
    """Holds the shards of all splits against their contract; writes the report as `accepted_parts` does.

    Args:
        folder_by_split: Folder of the shards of each split.
        patch: Settings that the patches were cut with.
        report_folder: Replaced as a whole.
        splits: File of records.SPLIT_TABLE, to see that no image of it is missing; None leaves that out.

    Raises:
        ValidationFailed: A rule is broken; lists every failed expectation and the first 20 places.
        DataError: An index is missing, damaged or of another version.
    """
    indexed = _IndexedImages.read(folder_by_split)
    astray = indexed.groups_in_two_splits()

    def folder_of(row: Row) -> str:
        return str(folder_by_split[row["split"]])

    of_patches = Contract(_patch_rules(patch), "patch_id", folder_of)
    of_images = Contract(_indexed_image_rules(patch), "image_id", folder_of)
    of_buckets = Contract(_bucket_rules(), "bucket", folder_of)
    counts: Counter[tuple[str, int]] = Counter()
    buckets: dict[tuple[str, int], int] = {}
    with failure_log(report_folder) as log:
        for split, folder in folder_by_split.items():
            repeated = indexed.repeated(split)
            for patches in _whole_images(folder):
                patches["split"] = split
                patches["label_agrees"] = _labels_agree(patches, patch)
                patches["repeats"] = patches["patch_id"].duplicated() | patches["image_id"].isin(repeated)
                log.add(of_patches.check(patches)[0])
                log.add(of_images.check(_image_frame(patches, patch, astray))[0])
                _count_rows(buckets, split, patches)
                counts.update((split, int(label)) for label in patches["label"])
        if splits is not None:
            of_split = Contract(_split_rules(), "image_id", folder_of)
            for images in indexed.against(splits):
                log.add(of_split.check(images)[0])
        on_disk = _bucket_frame(buckets, folder_by_split)
        log.add(of_buckets.check(on_disk)[0])

        overview = {
            f"Patches: {split}, {name}": counts[split, label]
            for split in folder_by_split
            for label, name in LABEL_NAMES.items()
        }
        overview |= {"Images": sum(len(i) for i in indexed.images.values()), "Shards": len(on_disk)}
        contracts = [of_patches, of_images, of_buckets] + ([] if splits is None else [of_split])
        outcomes = [outcome for contract in contracts for outcome in contract.outcomes]
        broken = any(not outcome.passed for outcome in outcomes)
        folder = failed_folder(report_folder) if broken else Path(report_folder)
        write_report(folder, "Patches", overview, outcomes, log, FAILURES, {})
        if broken:
            raise ValidationFailed(
                message("the patches", outcomes, log, folder)
                + "\nDelete the split's folder and run `dvc repro`; if it happens again, this is a defect of Vigil."
            )
        shutil.rmtree(failed_folder(report_folder), ignore_errors=True)


def _labels_agree(patches: pd.DataFrame, patch: PatchSection) -> npt.NDArray[np.bool_]:
    """Whether each patch's label fits its overlap with mask and boxes, and the other patches of its image.

    By the rule of `shards.patch_labels`: enough overlap makes a patch anomalous; a smaller one may (small defects),
    but then so do all larger ones of the image; none never does, unless the image has no mask and no boxes at all.
    """
    overlap, anomalous = patches["overlap"], patches["label"] == ANOMALOUS
    by_image = [patches["split"], patches["image_id"]]
    marked = overlap.groupby(by_image).transform("max") > 0
    largest_normal = overlap.where(~anomalous, -1.0).groupby(by_image).transform("max")
    with_marks = np.where(
        anomalous,
        (overlap > 0) & (overlap > largest_normal - _OVERLAP_ROUNDING),
        overlap < patch.anomalous_overlap + _OVERLAP_ROUNDING,
    )
    uniform = anomalous.astype("int64").groupby(by_image).transform("nunique") == 1
    never_on_normal = ~anomalous | (patches["image_label"] == ANOMALOUS)
    agrees: npt.NDArray[np.bool_] = np.where(marked, with_marks, uniform) & never_on_normal.to_numpy()
    return agrees


_INDEX_COLUMNS = ["patch_id", "image_id", "group", "bucket", "row", "source", "image_height", "image_width"]
_INDEX_COLUMNS += ["label", "image_label", "overlap"]
_PATCHES_PER_PART = 20_000
Hashes = npt.NDArray[np.uint64]


@dataclass(slots=True)
class _IndexedImages:
    """Hashes of the images' ids and groups, 16 bytes per image: what can only be told of all of them at once."""

    folders: Mapping[str, Path]
    images: dict[str, Hashes]
    """For each split, in the order of the index: one per uninterrupted run of rows of one image and group."""
    groups: dict[str, Hashes]

    @classmethod
    def read(cls, folders: Mapping[str, Path]) -> _IndexedImages:
        found = cls(folders, {}, {})
        for split in folders:
            images, groups = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
            before = None
            for names in found._names(split):
                image, group = _hashes(names["image_id"]), _hashes(names["group"])
                first = np.ones(len(image), np.bool_)
                first[1:] = (image[1:] != image[:-1]) | (group[1:] != group[:-1])
                first[0] = before != (image[0], group[0])
                before = image[-1], group[-1]
                images.append(image[first])
                groups.append(group[first])
            found.images[split], found.groups[split] = np.concatenate(images), np.concatenate(groups)
        return found

    def _names(self, split: str) -> Iterator[pd.DataFrame]:
        with PATCH_INDEX.open(Path(self.folders[split]) / "index.parquet") as file:
            for batch in file.iter_batches(_PATCHES_PER_PART, columns=["image_id", "group"]):
                if batch.num_rows:
                    yield batch.to_pandas()

    def repeated(self, split: str) -> set[str]:
        """Images whose rows stand in two places, or have two groups."""
        hashes, counts = np.unique(self.images[split], return_counts=True)
        return self._images_with(split, hashes[counts > 1])

    def _images_with(self, split: str, hashes: Hashes) -> set[str]:
        if not len(hashes):
            return set()
        return {
            name
            for names in self._names(split)
            for name in names["image_id"][np.isin(_hashes(names["image_id"]), hashes)]
        }

    def groups_in_two_splits(self) -> dict[str, set[str]]:
        """The splits of every group that is in more than one."""
        hashes, counts = np.unique(
            np.concatenate([np.unique(groups) for groups in self.groups.values()]), return_counts=True
        )
        suspects = hashes[counts > 1]
        splits_of: dict[str, set[str]] = {}
        for split in self.folders if len(suspects) else ():
            for names in self._names(split):
                for group in set(names["group"][np.isin(_hashes(names["group"]), suspects)]):
                    splits_of.setdefault(group, set()).add(split)
        return {group: splits for group, splits in splits_of.items() if len(splits) > 1}

    def against(self, splits: Path) -> Iterator[pd.DataFrame]:
        """Every image of the split table, and every other one of the index, with `missing_in` where it is not."""
        import pandas as pd

        indexed = {split: np.unique(images) for split, images in self.images.items()}
        asked: dict[str, list[Hashes]] = {split: [np.empty(0, np.uint64)] for split in self.folders}
        with SPLIT_TABLE.open(splits) as file:
            for batch in file.iter_batches(_ROWS_PER_PART, columns=["image_id", "split"]):
                rows = batch.to_pandas()
                for split in self.folders:
                    names = rows["image_id"][rows["split"] == split].reset_index(drop=True)
                    if len(names):
                        asked[split].append(_hashes(names))
                        there = _among(asked[split][-1], indexed[split])
                        missing = [None if found else "the index" for found in there.tolist()]
                        yield pd.DataFrame({"image_id": names, "split": split, "missing_in": missing})
        for split in self.folders:
            others = np.setdiff1d(indexed[split], np.concatenate(asked[split]))
            if unasked := sorted(self._images_with(split, others)):
                yield pd.DataFrame({"image_id": unasked, "split": split, "missing_in": str(splits)})


def _hashes(names: pd.Series[str]) -> Hashes:
    import pandas as pd

    return pd.util.hash_array(names.to_numpy(dtype=object), categorize=False)


def _among(values: Hashes, sorted_values: Hashes) -> npt.NDArray[np.bool_]:
    """Which `values` are in `sorted_values`; unlike `np.isin`, without sorting these again for each part."""
    places = np.searchsorted(sorted_values, values).clip(max=max(len(sorted_values) - 1, 0))
    found: npt.NDArray[np.bool_] = (
        sorted_values[places] == values if len(sorted_values) else np.zeros(len(values), bool)
    )
    return found


def _whole_images(folder: Path) -> Iterator[pd.DataFrame]:
    """The rows of an index, some whole images at a time."""
    import pandas as pd

    with PATCH_INDEX.open(Path(folder) / "index.parquet") as file:
        held = None
        for batch in file.iter_batches(_PATCHES_PER_PART, columns=_INDEX_COLUMNS):
            part = batch.to_pandas()
            if held is not None:
                part = pd.concat([held, part], ignore_index=True)
            others = np.flatnonzero(part["image_id"].to_numpy() != part["image_id"].iloc[-1])
            cut = int(others[-1]) + 1 if len(others) else 0
            held = part.iloc[cut:]
            if cut:
                yield part.iloc[:cut].reset_index(drop=True)
        if held is not None:
            yield held.reset_index(drop=True)


def _image_frame(patches: pd.DataFrame, patch: PatchSection, astray: Mapping[str, set[str]]) -> pd.DataFrame:
    """One row per image: patches found on the grid, and expected by the formula."""
    grid = (patches["source"] == "grid").astype("int64")
    images = (
        patches.assign(grid_patches=grid)
        .groupby(["split", "image_id"], sort=True)
        .agg(
            group=("group", "first"),
            height=("image_height", "first"),
            width=("image_width", "first"),
            grid_patches=("grid_patches", "sum"),
        )
        .reset_index()
    )
    sizes = list(zip(images["height"].tolist(), images["width"].tolist(), strict=True))
    expected = {(height, width): len(grid_positions(height, width, patch)) for height, width in set(sizes)}
    images["grid_formula"] = [expected[size] for size in sizes]
    images["splits_of_group"] = [len(astray.get(group, ())) or 1 for group in images["group"]]
    return images


def _count_rows(indexed: dict[tuple[str, int], int], split: str, patches: pd.DataFrame) -> None:
    """Adds the rows of a part to those of each bucket; -1 where they do not follow on one another."""
    for bucket, numbers in patches.groupby("bucket", sort=False)["row"]:
        key = split, int(str(bucket))
        start = indexed.get(key, 0)
        whole = start >= 0 and np.array_equal(numbers.to_numpy(), np.arange(start, start + len(numbers)))
        indexed[key] = start + len(numbers) if whole else -1


def _bucket_frame(indexed: Mapping[tuple[str, int], int], folder_by_split: Mapping[str, Path]) -> pd.DataFrame:
    """One row per shard on disk or in the index: rows in the file, and rows in the index."""
    import pandas as pd

    on_disk = {
        (split, int(path.stem.split("-")[1])): path
        for split, folder in folder_by_split.items()
        for path in Path(folder).glob("bucket-????.npy")
    }
    rows = [
        (*key, len(np.load(on_disk[key], mmap_mode="r")) if key in on_disk else 0, indexed.get(key, 0))
        for key in sorted({*indexed, *on_disk})
    ]
    return pd.DataFrame(rows, columns=["split", "bucket", "rows_in_file", "rows_in_index"])


def _patch_rules(patch: PatchSection) -> list[Rule]:
    return [
        Rule(
            "every patch occurs once",
            "ExpectColumnValuesToBeInSet",
            {"column": "repeats", "value_set": [False]},
            lambda _: "the patch, or others of its image, occur in two places",
        ),
        Rule(
            "the overlap with mask and boxes is a share",
            "ExpectColumnValuesToBeBetween",
            {"column": "overlap", "min_value": 0.0, "max_value": 1.0 + _OVERLAP_ROUNDING},
            lambda row: f"the overlap is {row['overlap']}",
        ),
        Rule(
            f"the label agrees with the overlap (anomalous from {patch.anomalous_overlap} on)",
            "ExpectColumnValuesToBeInSet",
            {"column": "label_agrees", "value_set": [True]},
            lambda row: f"label {row['label']} with overlap {row['overlap']:.4f}, image label {row['image_label']}",
        ),
    ]


def _indexed_image_rules(patch: PatchSection) -> list[Rule]:
    return [
        Rule(
            "every image has as many patches as its grid has places",
            "ExpectColumnPairValuesToBeEqual",
            {"column_A": "grid_patches", "column_B": "grid_formula"},
            lambda row: (
                f"{row['grid_patches']} grid patches in {row['split']}, but {row['width']}x{row['height']} pixels with "
                f"patch size {patch.patch_size_px} and stride {patch.stride_px} give {row['grid_formula']}"
            ),
        ),
        Rule(
            "no group is in two splits",
            "ExpectColumnValuesToBeBetween",
            {"column": "splits_of_group", "max_value": 1},
            lambda row: f"the group '{row['group']}' is in {row['splits_of_group']} splits, here in {row['split']}",
        ),
    ]


def _split_rules() -> list[Rule]:
    return [
        Rule(
            "the index holds the images of its split, and no others",
            "ExpectColumnValuesToBeNull",
            {"column": "missing_in"},
            lambda row: f"{row['split']}: the image is missing in {row['missing_in']}",
        )
    ]


def _bucket_rules() -> list[Rule]:
    return [
        Rule(
            "no shard is empty",
            "ExpectColumnValuesToBeBetween",
            {"column": "rows_in_file", "min_value": 1},
            lambda row: f"the shard of {row['split']} holds no patch, or is missing",
        ),
        Rule(
            "index and shard agree row by row",
            "ExpectColumnPairValuesToBeEqual",
            {"column_A": "rows_in_file", "column_B": "rows_in_index"},
            lambda row: (
                f"the shard of {row['split']} holds {row['rows_in_file']} patches, the index "
                + ("names them with gaps or repeats" if row["rows_in_index"] < 0 else f"{row['rows_in_index']}")
            ),
        ),
    ]
