"""The report: one file, honest about what is missing, equal for equal inputs."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from vigil.config import ModelSection, TrainSection
from vigil.delivery.plots import roc_plot, score_distribution_plot, training_plot
from vigil.delivery.report import HeatMapCase, ReportInputs, build_report
from vigil.serving.heat_map_panel import heat_map_panel


def rate(count: int, of: int, low: float, high: float) -> dict[str, Any]:
    return {"value": count / of, "low": low, "high": high, "count": count, "of": of}


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def baseline(auroc: float, direction: str = "higher") -> dict[str, Any]:
    return {"auroc": auroc, "auroc_raw": auroc, "low": auroc - 0.05, "high": auroc + 0.05, "direction": direction}


EVALUATION: dict[str, Any] = {
    "version": 1,
    "protocol": "strict",
    "test_digest": "e" * 64,
    "images": {"normal": 175, "anomalous": 150, "groups": 325},
    "confidence": 0.95,
    "auroc": estimate(0.734, 0.678, 0.785),
    "average_precision": estimate(0.712, 0.65, 0.77),
    "recall": rate(96, 150, 0.557, 0.717),
    "fpr": rate(49, 175, 0.215, 0.353),
    "precision": rate(96, 145, 0.579, 0.738),
    "f1": estimate(0.651, 0.59, 0.71),
    "threshold": 0.21347,
    "promise": "The threshold flags 46 of 50 anomalous calibration images.",
    "promise_kept": True,
    "recall_at_5_percent_fpr": 0.287,
    "per_kind": {
        kind: {
            "n": 25,
            "auroc": estimate(0.6 + 0.04 * i, 0.5 + 0.04 * i, 0.7 + 0.04 * i),
            "recall": rate(15, 25, 0.39, 0.79),
        }
        for i, kind in enumerate(("gun", "hammer", "knife", "pliers", "scissors", "wrench"))
    },
    "pixel_auroc": 0.861,
    "aupro": 0.433,
    "box_hit_rate": rate(51, 150, 0.265, 0.422),
    "anomalous_images_without_mask_or_box": 0,
    "trivial_baselines": {
        "brightness": baseline(0.541, "lower"),
        "contrast": baseline(0.552),
        "laplacian_energy": baseline(0.603),
        "file_bytes": baseline(0.588),
    },
    "untrained_baseline": baseline(0.615),
    "margin_over_best_baseline": {"baseline": "untrained", "value": 0.119, "low": 0.052, "high": 0.187},
    "undefined": {},
}
CALIBRATION: dict[str, Any] = {
    "version": 1,
    "score": "eq6",
    "eta": 0.9,
    "eta_fitted": False,
    "reduction": {"name": "top_k_mean", "k": 3},
    "threshold": 0.21347,
    "method": "recall",
    "target": 0.6,
    "confidence": 0.95,
    "promise_kept": True,
    "images_needed": 45,
    "recall": rate(34, 50, 0.53, 0.8),
    "fpr": rate(22, 79, 0.18, 0.391),
    "n_normal": 79,
    "n_anomalous": 50,
    "notes": ["The threshold flags 34 of 50 anomalous calibration images.", "It costs 22 of 79 normal ones."],
}
REGISTERED: dict[str, Any] = {
    "name": "vigil",
    "version": 3,
    "bundle_digest": "b" * 64,
    "test_digest": "e" * 64,
    "evaluation": {},
    "alias": "challenger",
    "champion_before": {
        "version": 2,
        "bundle_digest": "c" * 64,
        "test_digest": "e" * 64,
        "evaluation": {
            "auroc": estimate(0.7, 0.6, 0.8),
            "recall": estimate(0.66, 0.5, 0.7),
            "fpr": estimate(0.3, 0.2, 0.4),
        },
    },
}
CANDIDATE: dict[str, Any] = {
    "seed": 0,
    "model": ModelSection().model_dump(mode="json"),
    "train": TrainSection().model_dump(mode="json"),
}
TRAINING: dict[str, Any] = {
    "candidates": {"seed-0": CANDIDATE, "seed-1": {**CANDIDATE, "seed": 1}},
    "images_seen": {"seed-0": 49_350, "seed-1": 49_350},
    "train_patches": 16_450,
    "data": {"train": "d" * 64},
    "final_losses": {"seed-0": {"contextual_loss": 0.0312}, "seed-1": {"contextual_loss": 0.0298}},
    "selection": {
        "chosen": "seed-1",
        "criterion": "calibration_image_auroc",
        "higher_is_better": True,
        "values": {"seed-0": 0.701, "seed-1": 0.744},
        "images": 129,
        "anomalous_images": 50,
        "reason": "calibration holds 50 anomalous images, so the AUROC over its images decides",
    },
}
AUDIT: dict[str, Any] = {
    "version": 1,
    "leaks": [],
    "findings": {},
    "checks": {
        "score_order": {
            "title": "Scores do not depend on the order",
            "status": "passed",
            "text": "Tried on 96 patches.",
        },
        "shortcuts": {
            "title": "Trivial features do not separate",
            "status": "passed",
            "text": "The best is sharpness.",
        },
    },
    "trivial_features": {},
}
VALIDATION: dict[str, Any] = {
    "title": "Raw images",
    "overview": {"Images": 900, "Accepted": 898, "Quarantined": 2},
    "expectations": [{"name": "every image opens", "passed": True}],
    "passed": 14,
    "failed": 0,
    "items": [{"item": "normal/<3>.png", "reasons": ["the file is empty", "it is dark"]}],
    "items_in_all": 2,
    "listed_in": "quarantined.csv",
}


def panel(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    image = np.full((120, 160, 3), 235, np.uint8)
    y, x = int(rng.integers(10, 60)), int(rng.integers(10, 100))
    image[y : y + 40, x : x + 50] = rng.integers(40, 200, 3)
    grid_y, grid_x = np.mgrid[:120, :160]
    blob = np.exp(-((grid_y - y - 20) ** 2 + (grid_x - x - 25) ** 2) / 600).astype(np.float32)
    return heat_map_panel(image, blob, 0.4, boxes=[(x, y, x + 50, y + 40)])


def realistic() -> ReportInputs:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.gamma(8, 0.02, 175), rng.gamma(11, 0.021, 150)])
    labels = np.repeat([0, 1], [175, 150])
    order = np.argsort(-scores)
    recall = np.append(0, np.cumsum(labels[order]) / 150)
    fpr = np.append(0, np.cumsum(1 - labels[order]) / 175)
    steps = [
        {
            "images_seen": 1024 * n,
            "generator_loss": 8 / n + 1,
            "discriminator_loss": 1.3,
            "contextual_loss": 0.2 / n,
            "latent_loss": 0.1,
        }
        for n in range(1, 20)
    ]
    cases = [
        HeatMapCase("best", "JPEGImages/P00012.jpg", "gun", 0.51, panel(1)),
        HeatMapCase("best", "JPEGImages/P00019.jpg", "wrench", 0.47, panel(2)),
        HeatMapCase("missed", "JPEGImages/P00044.jpg", "knife", 0.09, panel(3)),
        HeatMapCase("false_alarms", "JPEGImages/N00101.jpg", "normal", 0.36, panel(4)),
    ]
    return ReportInputs(
        data_set="baggage",
        counts={
            "train": {"normal": 446, "anomalous": 0},
            "calibration": {"normal": 79, "anomalous": 50},
            "test": {"normal": 175, "anomalous": 150},
        },
        evaluation=EVALUATION,
        audit=AUDIT,
        calibration=CALIBRATION,
        training=TRAINING,
        registered=REGISTERED,
        validations=[VALIDATION],
        roc_svg=roc_plot({"this pair (AUROC 0.734)": (fpr, recall)}, (0.28, 0.64)),
        scores_svg=score_distribution_plot(scores, labels, 0.21347),
        training_svg=training_plot({"seed-0": steps, "seed-1": steps}, "seed-1"),
        cases=cases,
        links={"Data contract of the raw images": "validation/index.html"},
    )


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return realistic()


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return build_report(inputs)


class Collector(HTMLParser):
    """Ids, targets and open elements of a page, as a browser would meet them."""

    VOID = frozenset(("meta", "img", "br", "link", "hr", "input"))

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if found.get("href", "").startswith("#"):  # type: ignore[union-attr]
            self.targets.append(str(found["href"])[1:])
        if "src" in found:
            self.sources.append(str(found["src"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    """The page's words in one line, without style and markup."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_page_is_one_file_that_needs_no_network(page: str) -> None:
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= names
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "@import" not in page


def test_page_is_well_formed_and_its_links_lead_somewhere(page: str) -> None:
    collector = Collector()
    collector.feed(page)
    assert collector.open == []
    assert len(collector.ids) == len(set(collector.ids))
    assert set(collector.targets) <= set(collector.ids)
    assert len(collector.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in collector.sources)


def test_equal_inputs_give_equal_pages(page: str) -> None:
    assert build_report(realistic()) == page


def test_page_says_what_was_reached_and_why_the_threshold(page: str) -> None:
    text = text_of(page)
    for part in (
        "Ranks anomalies better than every baseline",
        "Trained on 446 normal images of baggage",
        "0.734 0.678 to 0.785",
        "96 of 150 images",
        "a recall of at least 60 %",
        "22 of 79 normal calibration images flagged: 0.278 (0.180 to 0.391)",
        "about 278 of every 1,000",
        "mean of the 3 highest patch scores",
        "vigil version 3",
        "2 images were quarantined",
        "Files put aside, the first 1 (all in quarantined.csv of the contract)",
        "normal/&lt;3&gt;.png : the file is empty; it is dark",
        "calibration holds 50 anomalous images",
        "brightness (lower is more anomalous)",
        "The images are simulated.",
        "Training patches 16,450",
        "3 passes over them, in batches of 32",
        "adversarial 1, contextual 40, latent 1",
        "seed-1 1 49,350 0.0298 0.744 chosen",
    ):
        assert part in text, part


def test_baselines_and_pair_stand_in_one_order(page: str) -> None:
    order = ("this pair", "untrained discriminator", "laplacian energy", "file size", "contrast", "brightness")
    table = text_of(page).split("Beside what needs no training")[1]
    assert [table.index(name) for name in order] == sorted(table.index(name) for name in order)


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        ({"value": 0.1, "low": 0.01, "high": 0.2}, "Ranks anomalies better than every baseline"),
        ({"value": 0.1, "low": -0.01, "high": 0.2}, "Not told apart from a baseline that learned nothing"),
        ({"value": -0.1, "low": -0.2, "high": -0.01}, "Ranks anomalies worse than a baseline"),
        ({"value": 0.1, "low": None, "high": None}, "Too few images to say"),
        (None, "The ranking could not be measured"),
    ],
)
def test_verdict_says_no_more_than_the_interval_allows(
    inputs: ReportInputs, margin: dict[str, Any] | None, words: str
) -> None:
    found = None if margin is None else {"baseline": "contrast", **margin}
    page = build_report(dataclasses.replace(inputs, evaluation={**EVALUATION, "margin_over_best_baseline": found}))
    assert words in re.findall(r"<h1.*?</h1>", page, re.DOTALL)[0]


def test_weight_decay_stands_beside_the_rate_where_there_is_one(inputs: ReportInputs, page: str) -> None:
    assert "weight decay" not in text_of(page)
    decayed = {**CANDIDATE, "train": TrainSection(weight_decay=0.3).model_dump(mode="json")}
    training = {**TRAINING, "candidates": {"seed-0": CANDIDATE, "seed-1": decayed}}
    assert "learning rate 0.0002, weight decay 0.3" in text_of(
        build_report(dataclasses.replace(inputs, training=training))
    )


def test_what_was_not_measured_is_said_with_its_reason(inputs: ReportInputs) -> None:
    nothing = dict.fromkeys(
        ("auroc", "average_precision", "recall", "precision", "f1", "pixel_auroc", "aupro", "box_hit_rate")
    )
    evaluation = {
        **EVALUATION,
        **nothing,
        "per_kind": {},
        "images": {"normal": 175, "anomalous": 0, "groups": 175},
        "trivial_baselines": {"contrast": {"auroc": None, "low": None, "high": None, "direction": None}},
        "margin_over_best_baseline": None,
        "undefined": {"recall": "the test split holds no anomalous image", "aupro": "no <mask>"},
    }
    registered = {**REGISTERED, "champion_before": None}
    page = build_report(
        dataclasses.replace(
            inputs,
            evaluation=evaluation,
            registered=registered,
            cases=(),
            training={},
            training_svg=None,
            roc_svg=None,
            validations=(),
        )
    )
    text = text_of(page)
    assert "Recall not measured the test split holds no anomalous image" in text
    assert "no &lt;mask&gt;" in page
    assert "There is no champion yet" in text
    assert "Not measured: training left no record." in text
    assert "Data contracts: not measured" in text
    assert "ROC curve. Not measured: the test split holds images of one label only." in text
    assert text.count("There are none.") == 4
    assert "None" not in text.replace("None of", "")
    assert "nan" not in text.lower().split()


def test_champion_is_compared_on_the_same_test_images_only(inputs: ReportInputs) -> None:
    same = text_of(build_report(inputs))
    assert "AUROC 0.700 0.734 +0.034" in same
    assert "False-positive rate 0.300 0.280 -0.020" in same
    champion = {**REGISTERED["champion_before"], "test_digest": "0" * 64}
    other = text_of(build_report(dataclasses.replace(inputs, registered={**REGISTERED, "champion_before": champion})))
    assert "was measured on other test images" in other
    assert "+0.034" not in other
    itself = text_of(
        build_report(
            dataclasses.replace(
                inputs, registered={**REGISTERED, "champion_before": {**REGISTERED["champion_before"], "version": 3}}
            )
        )
    )
    assert "Version 3 is the champion" in itself


def test_the_groups_that_a_promise_counts_are_named(inputs: ReportInputs) -> None:
    calibration = {**CALIBRATION, "promise_kept": False, "images_needed": 29, "anomalous_groups": 16}
    text = text_of(build_report(dataclasses.replace(inputs, calibration=calibration)))
    assert "50 anomalous (in 16 groups) images held out from training" in text
    assert "There were too few groups of calibration images" in text
    ungrouped = text_of(build_report(dataclasses.replace(inputs, calibration={**CALIBRATION, "promise_kept": False})))
    assert "50 anomalous images held out from training" in ungrouped
    assert "There were too few calibration images" in ungrouped


def test_limits_follow_the_data(inputs: ReportInputs) -> None:
    calibration = {**CALIBRATION, "method": "fpr", "promise_kept": False, "images_needed": 1234, "n_anomalous": 0}
    few = {"gun": {"n": 3, "auroc": None, "recall": None}}
    text = text_of(
        build_report(
            dataclasses.replace(
                inputs,
                data_set="mvtec",
                calibration=calibration,
                evaluation={
                    **EVALUATION,
                    "per_kind": few,
                    "images": {"normal": 9, "anomalous": 3, "groups": 4},
                    "anomalous_images_without_mask_or_box": 2,
                },
            )
        )
    )
    assert "simulated" not in text
    assert "it needs at least 1,234" in text
    assert "The threshold was set without any anomaly" in text
    assert "Fewer than 20 test images of: gun" in text
    assert "come from the same group" in text
    assert "2 anomalous test images have no mask or box" in text
    assert "There were too few calibration images to promise that" in text


def test_names_from_files_cannot_become_markup(inputs: ReportInputs) -> None:
    case = HeatMapCase("best", "<img src=x onerror=alert(1)>", "<b>kind</b>", 0.5, b"png")
    page = build_report(dataclasses.replace(inputs, cases=[case]))
    assert "<b>kind" not in page
    assert "<img src=x" not in page


def test_a_leak_takes_the_headline_and_a_shortcut_is_named_with_its_auroc() -> None:
    clean = build_report(realistic())
    assert "no leak in 2 checks, no shortcut found" in clean
    assert "Tried on 96 patches." in clean

    finding = {"brightness": {"auroc": 0.91, "low": 0.87, "high": 0.95, "direction": "lower"}}
    checks = {**AUDIT["checks"], "shortcuts": {**AUDIT["checks"]["shortcuts"], "status": "shortcut"}}
    page = build_report(dataclasses.replace(realistic(), audit={**AUDIT, "findings": finding, "checks": checks}))
    assert "SHORTCUT in the data: brightness (AUROC 0.910)" in page
    assert "differ in how they were made (brightness)" in page
    assert "Ranks anomalies better than every baseline" in page

    finding = {"official_near_duplicates": {"share": 0.02, "low": 0.01, "high": 0.05}}
    page = build_report(dataclasses.replace(realistic(), audit={**AUDIT, "findings": finding}))
    assert "2.0% of the test images have a near-duplicate across the official split" in page
    assert "own split has near-duplicates on both sides" in page
    assert "differ in how they were made" not in page

    checks = {"score_order": {**AUDIT["checks"]["score_order"], "status": "leak"}}
    page = build_report(dataclasses.replace(realistic(), audit={**AUDIT, "leaks": ["score_order"], "checks": checks}))
    assert "These numbers cannot be trusted" in page
    assert "LEAK: score_order" in page
    assert "Ranks anomalies better than every baseline" not in page
