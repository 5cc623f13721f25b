"""Data contracts, held with Great Expectations: on the manifest, and on the patch index.

The manifest says what is; this module says whether that will do. A broken contract stops the pipeline with a list of
what failed and for which files. The same page that Data Docs would give is rendered by `validation_report`, because
theirs links style sheets on the network, and nothing here may depend on the time or on a run's id.
"""

from __future__ import annotations

import csv
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vigil.config import PatchSection, ValidateSection
from vigil.errors import ValidationFailed, VigilError
from vigil.files import write_json, written_aside
from vigil.images.patches import grid_positions
from vigil.images.source import MODE_ADVICE
from vigil.images.validation_report import render_page
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND, PATCH_INDEX

if TYPE_CHECKING:
    import pandas as pd

FAILURES, QUARANTINED, RESULT, PAGE = "failures.csv", "quarantined.csv", "validation.json", "index.html"
_SHOWN = 20
_OVERLAP_ROUNDING = 1e-6
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation and what to say where it is broken."""

    name: str
    expectation: str
    """Class name in `great_expectations.expectations`."""
    arguments: dict[str, Any]
    reason: Callable[[Row], str]
    """For an expectation on rows: what is wrong with a row. For one on the whole table (`of_rows` False): what is
    missing and what to do; gets `{"observed": value}`."""
    of_rows: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a rule."""

    rule: Rule
    passed: bool
    checked: int
    """Rows that were looked at."""
    failed_rows: tuple[int, ...] = ()
    """Positions in the table."""
    observed: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of `failures.csv`."""

    expectation: str
    item: str
    file: str
    reason: str


# ------------------------------------------------------------------------------------------------------------- manifest


def validate_manifest(manifest: pa.Table, validate: ValidateSection, root: Path, report_folder: Path) -> pa.Table:
    """The rows of the manifest that keep the contract, which without quarantine is all of them.

    Every rule on single images is held against the whole manifest; rules on the set as a whole (enough normal images,
    every kind still there) against the images that break none. Writes `index.html`, `validation.json` and, if any
    image breaks a rule, `failures.csv` (`quarantined.csv` under quarantine) into `report_folder`, which is replaced as
    a whole, also on failure.

    Raises:
        ValidationFailed: A rule on single images is broken and `validate.quarantine` is false, or a rule on the set is
            broken. Lists every failed expectation and the first 20 files with reasons.
    """
    columns = ["image_id", "path", "sha256", "width", "height", "mode", "label", "kind", "fault"]
    frame = _manifest_frame(manifest.select(columns))
    of_images = _evaluate(frame, _image_rules(validate))
    bad = sorted({row for outcome in of_images for row in outcome.failed_rows})
    kept = frame.drop(index=bad).reset_index(drop=True)
    of_set = _evaluate(kept, _set_rules(validate, sorted(set(frame["kind"]))))

    failures = _failures(of_images, frame, "image_id", lambda row: f"{root}/{row['path']}")
    failures += _failures(of_set, kept, "image_id", lambda row: f"{root}/{row['path']}")
    stops = any(not o.passed for o in of_set) or (bool(bad) and not validate.quarantine)
    overview = {
        "Images": len(frame),
        "Accepted": len(kept) if validate.quarantine or not bad else 0,
        "Quarantined": len(bad) if validate.quarantine else 0,
        **{f"Kind '{kind}'": int(count) for kind, count in sorted(frame["kind"].value_counts().items())},
        **{f"Mode {mode}": int(count) for mode, count in sorted(frame["mode"].value_counts().items())},
    }
    csv_name = QUARANTINED if validate.quarantine and not stops else FAILURES
    _write_report(report_folder, "Raw images", overview, [*of_images, *of_set], failures, csv_name)
    if stops:
        advice = "Repair or remove the files and run `dvc repro` again"
        if bad and not validate.quarantine:
            advice += ", or set validate.quarantine to true to go on without them"
        raise ValidationFailed(
            _message("the raw images", [*of_images, *of_set], failures, report_folder) + f"\n{advice}."
        )
    return manifest.take(pa.array(np.setdiff1d(np.arange(len(frame)), np.array(bad, dtype=np.int64))))


def _manifest_frame(manifest: pa.Table) -> pd.DataFrame:
    """The manifest with the columns that rules are about."""
    frame: pd.DataFrame = manifest.to_pandas()
    width, height = frame["width"].astype("float64"), frame["height"].astype("float64")
    frame["shorter_side_px"] = np.minimum(width, height)
    frame["pixels"] = width * height
    frame["label_by_kind"] = np.select(
        [frame["kind"] == NORMAL_KIND, frame["kind"].str.len() > 0], [NORMAL, ANOMALOUS], default=-1
    )
    readable = frame["sha256"].where(width.notna())
    frame["labels_of_content"] = frame["label"].groupby(readable).transform("nunique")
    frame["is_normal"] = (frame["label"] == NORMAL).astype("int64")
    return frame


def _image_rules(validate: ValidateSection) -> list[Rule]:
    modes = ", ".join(validate.modes)

    def about_mode(row: Row) -> str:
        what = MODE_ADVICE.get(row["mode"], f"has the mode {row['mode']}; convert it to one of {modes}")
        return f"{what} (mode {row['mode']}; accepted are {modes})"

    return [
        Rule(
            "every image decodes completely and agrees with its mask and boxes",
            "ExpectColumnValuesToBeNull",
            {"column": "fault"},
            lambda row: str(row["fault"]),
        ),
        Rule(
            "every image has an id of its own",
            "ExpectColumnValuesToBeUnique",
            {"column": "image_id"},
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
            f"the pixel mode is one of {modes}",
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
            "ExpectColumnValuesToBeBetween",
            {"column": "labels_of_content", "max_value": 1},
            lambda row: f"the same file (sha256 {row['sha256'][:12]}...) also occurs with the other label",
        ),
    ]


def _set_rules(validate: ValidateSection, kinds: Sequence[str]) -> list[Rule]:
    return [
        Rule(
            f"at least {validate.min_normal_images} normal images",
            "ExpectColumnSumToBeBetween",
            {"column": "is_normal", "min_value": validate.min_normal_images},
            lambda seen: (
                f"found {seen['observed']:.0f} usable normal images, expected at least {validate.min_normal_images} "
                f"(validate.min_normal_images); add some"
            ),
            of_rows=False,
        ),
        Rule(
            "both classes are there, normal and anomalous",
            "ExpectColumnDistinctValuesToContainSet",
            {"column": "label", "value_set": [NORMAL, ANOMALOUS]},
            lambda _: (
                "a class is missing: the usable images are all normal, or all anomalous; normal ones are needed to "
                "train, anomalous ones to evaluate"
            ),
            of_rows=False,
        ),
        Rule(
            "no kind is lost with the images that break a rule",
            "ExpectColumnDistinctValuesToContainSet",
            {"column": "kind", "value_set": list(kinds)},
            lambda _: f"of the kinds {', '.join(kinds)}, at least one has no usable image left",
            of_rows=False,
        ),
    ]


# ---------------------------------------------------------------------------------------------------------- patch index


def validate_patch_index(folder_by_split: Mapping[str, Path], patch: PatchSection, report_folder: Path) -> None:
    """Holds the shards of all splits against their contract; writes the report as `validate_manifest` does.

    Args:
        folder_by_split: Folder of the shards of each split.
        patch: Settings that the patches were cut with.
        report_folder: Replaced as a whole.

    Raises:
        ValidationFailed: A rule is broken; lists every failed expectation and the first 20 places.
        DataError: An index is missing, damaged or of another version.
    """
    import pandas as pd

    columns = ["patch_id", "image_id", "group", "bucket", "row", "source", "image_height", "image_width"]
    columns += ["label", "image_label", "overlap"]
    parts = []
    for split, folder in folder_by_split.items():
        part = PATCH_INDEX.read(Path(folder) / "index.parquet").select(columns).to_pandas()
        parts.append(part.assign(split=split))
    patches = pd.concat(parts, ignore_index=True)
    patches["label_agrees"] = _labels_agree(patches, patch)
    images = _image_frame(patches, patch)
    buckets = _bucket_frame(patches, folder_by_split)

    outcomes: list[Outcome] = []
    failures: list[Failure] = []
    for frame, rules, item in (
        (patches, _patch_rules(patch), "patch_id"),
        (images, _indexed_image_rules(patch), "image_id"),
        (buckets, _bucket_rules(), "bucket"),
    ):
        found = _evaluate(frame, rules)
        outcomes += found
        failures += _failures(found, frame, item, lambda row: str(folder_by_split[row["split"]]))

    counts = patches.groupby(["split", "label"]).size()
    overview = {
        f"Patches: {split}, {('normal', 'anomalous')[label]}": int(counts.get((split, label), 0))
        for split in folder_by_split
        for label in (NORMAL, ANOMALOUS)
    }
    overview |= {"Images": len(images), "Shards": len(buckets)}
    _write_report(report_folder, "Patches", overview, outcomes, failures, FAILURES)
    if any(not outcome.passed for outcome in outcomes):
        raise ValidationFailed(
            _message("the patches", outcomes, failures, report_folder)
            + "\nDelete the split's folder and run `dvc repro`; if it happens again, this is a defect of Vigil."
        )


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


def _image_frame(patches: pd.DataFrame, patch: PatchSection) -> pd.DataFrame:
    """One row per image and split: patches found on the grid, and expected by the formula."""
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
    expected = {
        (height, width): len(grid_positions(height, width, patch))
        for height, width in set(zip(images["height"].tolist(), images["width"].tolist(), strict=True))
    }
    sizes = zip(images["height"].tolist(), images["width"].tolist(), strict=True)
    images["grid_formula"] = [expected[size] for size in sizes]
    images["splits_of_group"] = images.groupby("group")["split"].transform("nunique")
    return images


def _bucket_frame(patches: pd.DataFrame, folder_by_split: Mapping[str, Path]) -> pd.DataFrame:
    """One row per shard on disk or in the index: rows in the file, and rows in the index."""
    import pandas as pd

    indexed: dict[tuple[str, int], int] = {}
    for key, numbers in patches.groupby(["split", "bucket"])["row"]:
        split, bucket = cast("tuple[str, int]", key)
        whole = np.array_equal(np.sort(numbers.to_numpy()), np.arange(len(numbers)))
        indexed[split, int(bucket)] = len(numbers) if whole else -1
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
            "ExpectColumnValuesToBeUnique",
            {"column": "patch_id"},
            lambda _: "the patch occurs more than once",
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


# --------------------------------------------------------------------------------------------------------------- common


def _evaluate(frame: pd.DataFrame, rules: Sequence[Rule]) -> list[Outcome]:
    """Runs the rules through Great Expectations, in an in-memory context that writes and sends nothing."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # Its import meets deprecations of Python, pandas and marshmallow that are not ours to mend.
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations import expectations
        from great_expectations.data_context.types.base import ProgressBarsConfig

        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # says where it is
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        suite = gx.ExpectationSuite("contract")
        for number, rule in enumerate(rules):
            kind = getattr(expectations, rule.expectation)
            suite.add_expectation(kind(**rule.arguments, meta={"rule": number}))
        results = batch.validate(suite, result_format="COMPLETE").results
    found: dict[int, Any] = {}
    for result in results:
        assert result.expectation_config is not None
        assert result.expectation_config.meta is not None
        found[result.expectation_config.meta["rule"]] = result
    return [_outcome(rule, found[number], len(frame)) for number, rule in enumerate(rules)]


def _outcome(rule: Rule, result: Any, rows: int) -> Outcome:
    if result.exception_info.get("raised_exception") or (not result.success and not result.result):
        raise VigilError(f"Great Expectations could not evaluate '{rule.name}': {result.exception_info}")
    observed = result.result.get("observed_value")
    number = None if rule.of_rows or not isinstance(observed, int | float | np.number) else float(observed)
    failed = tuple(sorted(int(row) for row in result.result.get("unexpected_index_list") or ()))
    return Outcome(rule, bool(result.success), rows, failed, number)


def _failures(
    outcomes: Sequence[Outcome], frame: pd.DataFrame, item: str, file_of: Callable[[Row], str]
) -> list[Failure]:
    """One failure per broken rule and row, and one per broken rule on the whole table."""
    failures = []
    for outcome in outcomes:
        rule = outcome.rule
        if not outcome.passed and not rule.of_rows:
            failures.append(Failure(rule.name, "", "", rule.reason({"observed": outcome.observed or 0.0})))
        for row in outcome.failed_rows:
            values = {str(name): value for name, value in frame.iloc[row].items()}
            failures.append(Failure(rule.name, str(values[item]), file_of(values), rule.reason(values)))
    return failures


def _message(what: str, outcomes: Sequence[Outcome], failures: Sequence[Failure], report_folder: Path) -> str:
    broken = [outcome for outcome in outcomes if not outcome.passed]
    lines = [f"{what} break {len(broken)} of {len(outcomes)} expectations:"]
    for outcome in broken:
        first = next(f for f in failures if f.expectation == outcome.rule.name)
        count = f"{len(outcome.failed_rows)} of {outcome.checked}, first {first.item}"
        lines.append(f"  FAILED {outcome.rule.name} ({count if outcome.rule.of_rows else first.reason})")
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        if failure.item:
            reasons.setdefault(failure.item, []).append(failure.reason.removeprefix(f"{failure.item}: "))
    for item, found in sorted(reasons.items())[:_SHOWN]:
        lines.append(f"  {item}: {'; '.join(found)}")
    if len(reasons) > _SHOWN:
        lines.append(f"  ... and {len(reasons) - _SHOWN} more")
    lines.append(f"All of them: {Path(report_folder) / FAILURES}; the whole result: {Path(report_folder) / PAGE}")
    return "\n".join(lines)


def _write_report(
    folder: Path,
    title: str,
    overview: Mapping[str, int],
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure],
    csv_name: str,
) -> None:
    """Replaces the report folder; its files depend on the data and the rules alone."""
    result = {
        "title": title,
        "overview": dict(overview),
        "expectations": [
            {
                "name": outcome.rule.name,
                "type": outcome.rule.expectation,
                "arguments": outcome.rule.arguments,
                "passed": outcome.passed,
                "checked": outcome.checked,
                "failed": len(outcome.failed_rows),
            }
            for outcome in outcomes
        ],
        "passed": sum(outcome.passed for outcome in outcomes),
        "failed": sum(not outcome.passed for outcome in outcomes),
    }
    shown = [(f.expectation, f.item, f.reason) for f in failures[:_SHOWN]]
    with written_aside(Path(folder)) as new:
        new.mkdir()
        write_json(new / RESULT, result)
        (new / PAGE).write_text(render_page(result, shown, len(failures), csv_name))
        if failures:
            with (new / csv_name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["expectation", "item", "file", "reason"])
                writer.writerows([f.expectation, f.item, f.file, f.reason] for f in failures)
