"""evaluate: what the calibrated pair reaches on the test split. It chooses nothing."""

from __future__ import annotations

from vigil.config import EvaluateSection, PatchSection
from vigil.files import read_json, write_json, write_text, written_aside
from vigil.records import KEPT, MANIFEST, PATCH_SCORES
from vigil.stages import layout


def run(patch: PatchSection, evaluate: EvaluateSection) -> None:
    """Writes the figures, the verdict on every test image, and the plots of the paper's figures 6 and 7."""
    import numpy as np
    from pyarrow import csv
    from sklearn.metrics import roc_curve

    from vigil.calibration.calibration import read_calibration
    from vigil.delivery.plots import roc_plot, score_distribution_plot
    from vigil.evaluation.evaluation import evaluate as measure
    from vigil.images.shards import PatchShards
    from vigil.networks.pair import load_pair

    calibration = read_calibration(layout.CALIBRATION)
    pair = load_pair(layout.PAIR)[0]
    test = PatchShards.open(layout.PATCHES["test"])
    measured = measure(
        PATCH_SCORES.read(layout.SCORES["test"]),
        calibration,
        evaluate,
        manifest=MANIFEST.read(layout.ACCEPTED),
        test=test,
        train=PatchShards.open(layout.PATCHES["train"]),
        maps_folder=layout.MAPS["test"],
        patch=patch,
        spec=pair.spec,
    )
    start = read_json(layout.START / "start.json")
    if start["parent"] is not None:
        from vigil.delivery.bundle import load_bundle
        from vigil.evaluation.beside_parent import beside_parent

        parent = load_bundle(layout.START / layout.PARENT_BUNDLE)
        both = beside_parent(
            (pair, calibration),
            (parent.pair, parent.calibration),
            patch,
            evaluate,
            kept=KEPT.read(layout.REHEARSAL["test"]),
            images=measured.images,
            test=test,
            test_digest=measured.report["test_digest"],
        )
        measured.report["parent"] = {**start["parent"], "left_out": start["left_out"], **both}
    write_json(layout.EVALUATION, measured.report)
    with written_aside(layout.TEST_IMAGES) as new:
        csv.write_csv(measured.images, new)

    labels, scores = (measured.images.column(name).to_numpy() for name in ("label", "score"))
    with written_aside(layout.PLOTS) as new:
        new.mkdir()
        distribution = score_distribution_plot(scores, labels, calibration.threshold)
        (new / "score_distribution.svg").write_text(distribution)
        if 0 < np.sum(labels) < len(labels):
            fpr, recall, _ = roc_curve(labels, scores)
            point = (measured.report["fpr"]["value"], measured.report["recall"]["value"])
            (new / "roc.svg").write_text(roc_plot({"the pair": (fpr, recall)}, point))
            rows = [f"{x!r},{y!r}" for x, y in zip(fpr.tolist(), recall.tolist(), strict=True)]
            write_text(layout.ROC, "\n".join(["fpr,recall", *rows]) + "\n")
        else:
            write_text(layout.ROC, "fpr,recall\n")
