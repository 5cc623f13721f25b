"""What `vigil audit displays` does: the project's test images, as they are and shown otherwise, before a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vigil.config import Params, PatchSection
from vigil.errors import DataError
from vigil.files import digest_json, read_json, write_json
from vigil.images.displays import DISPLAYS
from vigil.images.sampling import scaled_images, spread
from vigil.records import ANOMALOUS, MANIFEST, NORMAL, SPLIT_TABLE
from vigil.serving.display_audit import Labelled, judged_on
from vigil.stages import layout

REPORT = Path("reports/displays.json")
FORMAT_VERSION = 1


def audit_displays(params: Params, folder: Path, most: int, device: str = "auto") -> dict[str, Any]:
    """Judges test images on every display; what was judged before a kill is taken over.

    Args:
        params: The project's settings.
        folder: Of the bundle.
        most: Images of each label, at equal distances in the manifest's order.
        device: Where the networks run: `auto`, `cpu` or `cuda`.

    Returns:
        What `reports/displays.json` holds: the bundle's digest, its threshold, the numbers of images, a row per
        display (`serving.display_audit.DisplayRow`), and the displays that change nothing.

    Raises:
        DataError: There is no test split, a raw file is missing or changed, or an image has no score.
        BundleMismatch: The bundle is damaged.
    """
    from vigil.delivery.bundle import load_bundle

    bundle = load_bundle(folder)
    rows = _chosen(most)
    labels = [row["label"] for row in rows]
    of = {
        "version": FORMAT_VERSION,
        "bundle": bundle.record.digest,
        "images": digest_json([[row["image_id"], row["sha256"], row["label"]] for row in rows]),
        "evaluate": params.evaluate.model_dump(mode="json"),
    }
    found: dict[str, Any] = {
        **of,
        "threshold": bundle.calibration.threshold,
        "normal": labels.count(NORMAL),
        "anomalous": labels.count(ANOMALOUS),
        "rows": [],
        "unchanged": [],
    }
    if REPORT.is_file() and {key: read_json(REPORT).get(key) for key in of} == of:
        found = read_json(REPORT)
    known = {*(row["display"] for row in found["rows"]), *found["unchanged"]}
    root = Path(params.data.root)
    for display in DISPLAYS:
        if display in known:
            continue
        row = judged_on(
            display,
            bundle,
            lambda: _images(rows, root, bundle.patch),
            len(rows),
            params.evaluate,
            device=device,
            batch_size=params.score.batch_size,  # as the pipeline's, so that the scores are
        )
        if row is None:
            found["unchanged"].append(display)
        else:
            found["rows"].append(row.as_json())
        write_json(REPORT, found)
    return found


def _chosen(most: int) -> list[dict[str, Any]]:
    """Rows of the manifest, with group and label of the split: `most` test images of each label."""
    splits = SPLIT_TABLE.read(layout.SPLITS, ["image_id", "split", "label", "group"])
    manifest = MANIFEST.read(layout.ACCEPTED, ["image_id", "path", "offset", "bytes", "width", "height", "sha256"])
    test = splits.filter(pc.field("split") == "test").drop_columns(["split"])
    rows: list[dict[str, Any]] = []
    for label in (NORMAL, ANOMALOUS):
        of_label = test.filter(pc.field("label") == label)
        if not of_label.num_rows:
            raise DataError("the test split lacks normal or anomalous images; give it some by the split section")
        rows += spread(of_label, most).to_pylist()
    wanted = {row["image_id"]: row for row in rows}
    files = manifest.filter(pc.is_in(manifest["image_id"], pa.array(list(wanted)))).to_pylist()
    if len(files) != len(wanted):
        raise DataError("the test split names images that the manifest lacks; run `dvc repro`")
    return [{**file, **wanted[file["image_id"]]} for file in files]


def _images(rows: Sequence[dict[str, Any]], root: Path, patch: PatchSection) -> Iterator[Labelled]:
    for row, pixels in scaled_images(rows, root, patch):
        yield Labelled(row["path"], pixels, row["label"], row["group"])


def as_text(found: dict[str, Any]) -> str:
    """The result as a table for a terminal."""
    lines = [
        f"{found['normal']} normal and {found['anomalous']} anomalous test images, threshold {found['threshold']:.6g}",
        f"{'shown':<14}{'AUROC':>7}  {'interval':<14}{'recall':>7}{'FPR':>7}{'r@5%':>7}  screening warns of",
    ]
    for row in found["rows"]:
        low, high = row["auroc_low"], row["auroc_high"]
        interval = "-" if low is None else f"{low:.3f}-{high:.3f}"
        lines.append(
            f"{row['display']:<14}{row['auroc']:>7.3f}  {interval:<14}{row['recall']['value']:>7.3f}"
            f"{row['fpr']['value']:>7.3f}{row['recall_at_5_percent_fpr']:>7.3f}  {', '.join(row['warned_by']) or '-'}"
        )
    lines += [f"{display:<14}changes nothing here" for display in found["unchanged"]]
    return "\n".join([*lines, *(f"  {name}: {what}" for name, what in DISPLAYS.items())])
