"""The report of a run: one HTML file that holds everything it shows and opens without the network.

Equal inputs give equal text: no date, no random ids. What was not measured says so and why; a number is never made up.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vigil.evaluation.audit_record import OFFICIAL_NEAR_DUPLICATES, headline

Report = Mapping[str, Any]
"""What one of the pipeline's JSON files holds."""

_TEMPLATES = Path(__file__).parent / "templates"

Group = Literal["best", "worst", "missed", "false_alarms"]
_GROUPS: dict[Group, tuple[str, str]] = {
    "best": ("Clearest finds", "Anomalous images with the highest scores."),
    "missed": ("Missed", "Anomalous images at or below the threshold, the lowest score first."),
    "worst": ("Hardest finds", "Anomalous images with the lowest scores of those that were flagged."),
    "false_alarms": ("False alarms", "Normal images above the threshold, the highest score first."),
}


@dataclass(frozen=True, slots=True)
class HeatMapCase:
    """One test image with its anomaly map."""

    group: Group
    image_id: str
    kind: str
    score: float
    png: bytes
    """From `serving.heat_map_panel`: the image, and beside it the image under its map."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything that the report shows. Mappings are the contents of the files that are named."""

    data_set: str
    """E.g. `baggage`."""
    counts: Mapping[str, Mapping[str, int]]
    """Split -> label name (`normal`, `anomalous`) -> number of images."""
    evaluation: Report
    """reports/evaluation.json"""
    calibration: Report
    """models/calibration.json"""
    training: Report
    """reports/train.json; may be empty."""
    audit: Report
    """reports/audit.json"""
    registered: Report
    """models/registered.json"""
    validations: Sequence[Report]
    """validation.json of each data contract."""
    scores_svg: str
    """This and the following from `plots`."""
    roc_svg: str | None = None
    """None where the test split holds one label only."""
    training_svg: str | None = None
    cases: Sequence[HeatMapCase] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    """Text -> relative path of further files, such as the data contracts' own pages."""


def build_report(inputs: ReportInputs) -> str:
    """The whole page as HTML, with style, plots and pictures inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evaluation = inputs.evaluation
    page = environment.get_template("report.html").render(
        title=f"Vigil: {inputs.data_set}",
        data_set=inputs.data_set,
        lead=_lead(inputs),
        verdict=_verdict(evaluation, inputs.audit),
        tiles=[_figure_of(evaluation, key) for key in ("auroc", "recall", "fpr")],
        version=_version(inputs.registered),
        threshold=_threshold(inputs.calibration),
        measures=[_figure_of(evaluation, key) for key in _NAMES],
        confidence=evaluation.get("confidence"),
        ranking=_ranking(evaluation),
        audit=_audit(inputs.audit),
        paper=evaluation.get("paper_protocol"),
        kinds=_kinds(evaluation),
        plots=[(title, caption, Markup(svg)) for title, caption, svg in _plots(inputs)],  # noqa: S704 - our own SVG
        gallery=_gallery(inputs.cases, float(evaluation["threshold"])),
        counts=[(split, of.get("normal", 0), of.get("anomalous", 0)) for split, of in inputs.counts.items()],
        validations=[_validation(result) for result in inputs.validations],
        links=inputs.links,
        training=_training(inputs.training),
        selection=_selection(inputs.training),
        change=_change(inputs),
        parent=_parent(evaluation),
        limits=_limits(inputs),
        digests=_digests(inputs),
    )
    return page + "\n"


# ------------------------------------------------------------------------------------------------------------- numbers

_NAMES = {
    "auroc": ("AUROC", "An anomalous image scores above a normal one with this probability; 0.5 is chance."),
    "average_precision": ("Average precision", "Area under precision over recall; chance is the anomalous share."),
    "recall": ("Recall", "Share of the anomalous images that are flagged."),
    "fpr": ("False-positive rate", "Share of the normal images that are flagged."),
    "precision": ("Precision", "Share of the flagged images that are anomalous, in this test's mixture."),
    "f1": ("F1", "Harmonic mean of precision and recall."),
    "recall_at_5_percent_fpr": (
        "Recall at 5 % FPR",
        "Read off the test's ROC curve: compares pairs, promises nothing.",
    ),
    "pixel_auroc": ("Pixel AUROC", "The anomaly map against masks or boxes, pixel by pixel."),
    "aupro": ("AUPRO", "Overlap with each true region, up to 30 % false-positive pixels."),
    "box_hit_rate": ("Box hit rate", "Share of the anomalous images whose map peaks inside a mask or box."),
    "patch_auroc_inside": (
        "Patch AUROC inside",
        "In anomalous images: patches that meet a mask or box against the others. Says nothing of how images differ.",
    ),
}


class Figure(NamedTuple):
    """A number as it is shown."""

    name: str
    meaning: str
    value: str
    interval: str
    counted: str
    """`31 of 40` for a rate, the reason for a number that was not measured."""
    measured: bool


def _figure_of(evaluation: Report, key: str) -> Figure:
    name, meaning = _NAMES[key]
    found = evaluation.get(key)
    if found is None:
        reason = evaluation.get("undefined", {}).get(key, "this evaluation does not hold it")
        return Figure(name, meaning, "not measured", "", reason, False)
    entry = found if isinstance(found, Mapping) else {"value": found}
    counted = f"{entry['count']} of {entry['of']} images" if "count" in entry else ""
    return Figure(name, meaning, _number(entry["value"]), _interval(entry), counted, True)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _interval(entry: Report) -> str:
    low, high = entry.get("low"), entry.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _score(value: float) -> str:
    return f"{value:.5g}"


# ------------------------------------------------------------------------------------------------------------ sections


def _lead(inputs: ReportInputs) -> str:
    train, test = inputs.counts.get("train", {}), inputs.evaluation["images"]
    return (
        f"Trained on {train.get('normal', 0):,} normal images of {inputs.data_set}, without having seen an anomaly; "
        f"tested on {test['normal']:,} normal and {test['anomalous']:,} anomalous images that took no part in training "
        f"or in setting the threshold."
    )


def _verdict(evaluation: Report, audit: Report) -> dict[str, str]:
    """What the audit and the comparison with the best baseline allow to say; `tone` is good, mixed or bad."""
    if audit["leaks"]:
        return {"tone": "bad", "text": "These numbers cannot be trusted", "detail": headline(audit)}
    margin = evaluation.get("margin_over_best_baseline")
    if margin is None:
        reason = evaluation.get("undefined", {}).get("margin_over_best_baseline", "no baseline was measured")
        return {"tone": "mixed", "text": "The ranking could not be measured", "detail": reason}
    baseline, interval = _baseline_name(margin["baseline"]), _interval(margin)
    by = f"AUROC difference to the best baseline, {baseline}: {margin['value']:+.3f}"
    detail = f"{by} (interval {interval})." if interval else f"{by}."
    low, high = margin.get("low"), margin.get("high")
    if low is None or high is None:
        tone, text = "mixed", "Too few images to say whether training beats the baselines"
    elif low > 0:
        tone, text = "good", "Ranks anomalies better than every baseline"
    elif high < 0:
        tone, text = "bad", "Ranks anomalies worse than a baseline that learned nothing"
    else:
        tone, text = "mixed", "Not told apart from a baseline that learned nothing"
    return {"tone": tone, "text": text, "detail": detail}


def _audit(audit: Report) -> dict[str, Any]:
    shown = {
        "passed": ("good", "passed"),
        "leak": ("bad", "LEAK"),
        "shortcut": ("mixed", "finding"),
        "finding": ("mixed", "finding"),
    }
    rows = []
    for check in audit["checks"].values():
        tone, word = shown.get(check["status"], ("soft", "not checked"))
        rows.append({"title": check["title"], "tone": tone, "word": word, "text": check["text"]})
    tone = "bad" if audit["leaks"] else "mixed" if audit["findings"] else "good"
    return {"tone": tone, "text": headline(audit), "rows": rows}


def _version(registered: Report) -> str:
    return f"{registered['name']} version {registered['version']}"


def _threshold(calibration: Report) -> dict[str, Any]:
    by_recall = calibration["method"] == "recall"
    asked = (
        f"a recall of at least {_percent(calibration['target'])}"
        if by_recall
        else (f"a false-positive rate of at most {_percent(calibration['target'])}")
    )
    held = f"{calibration['n_normal']:,} normal" + (
        f" and {calibration['n_anomalous']:,} anomalous" if calibration["n_anomalous"] else ""
    )
    groups = calibration.get("anomalous_groups")
    held += f" (in {groups:,} groups)" if groups is not None else ""
    cost: Report = calibration["fpr"]
    reduction = calibration["reduction"]
    of_patches = (
        "highest patch score" if reduction["name"] == "max" else f"mean of the {reduction['k']} highest patch scores"
    )
    return {
        "value": _score(calibration["threshold"]),
        "asked": asked,
        "method": "Recall on calibration anomalies" if by_recall else "Conformal, on calibration normals",
        "held": f"{held} images held out from training",
        "kept": bool(calibration["promise_kept"]),
        "cost": f"{cost['count']} of {cost['of']} normal calibration images flagged: {_number(cost['value'])} "
        f"({_interval(cost)})",
        "per_thousand": round(1000 * cost["value"]),
        "notes": list(calibration["notes"]),
        "score": _score_in_words(calibration),
        "reduction": of_patches,
    }


def _score_in_words(calibration: Report) -> str:
    if calibration["score"] == "eq6":
        chosen = " (chosen on calibration data)" if calibration.get("eta_fitted") else ""
        return f"Eq. (6) with η = {calibration['eta']:g}{chosen}"
    if calibration["score"] == "fitted":
        terms = " + ".join(f"{c['weight']:.3g} {c['name'].replace('_', ' ')}" for c in calibration["weighted"])
        return f"{terms}, standardised (weights fitted on {calibration['weights_fitted_on']})"
    return {
        "map_peak": "peak of the anomaly map",
        "stitched_peak": "surest small square of what overlapping patches point at",
        "self_supervision": "how unsure the discriminator is of the patch's turn",
        "memory": "distance from normal training patches in the discriminator's features",
        "published": "the system's own score, as its description defines it",
    }[calibration["score"]]


def _baseline_name(name: str) -> str:
    known = {
        "combined": "all of these together",
        "untrained": "untrained discriminator's features",
        "file_bytes": "file size",
    }
    return known.get(name, name.replace("_", " "))


def _ranking(evaluation: Report) -> list[dict[str, Any]]:
    """The model and every baseline, best AUROC first; `width` is the AUROC in percent, for the bar."""
    rows = {_baseline_name(name): row for name, row in evaluation.get("trivial_baselines", {}).items()}
    if evaluation.get("untrained_baseline"):
        rows[_baseline_name("untrained")] = evaluation["untrained_baseline"]
    model = evaluation.get("auroc") or {}
    listed = [("this pair", model.get("value"), _interval(model), True, "")]
    for name, row in rows.items():
        note = "lower is more anomalous" if row.get("direction") == "lower" else ""
        listed.append((name, row.get("auroc"), _interval(row), False, note))
    listed.sort(key=lambda row: -1.0 if row[1] is None else row[1], reverse=True)
    return [
        {
            "name": name,
            "auroc": _number(auroc),
            "interval": interval,
            "own": own,
            "note": note,
            "width": 0 if auroc is None else round(100 * auroc, 1),
        }
        for name, auroc, interval, own, note in listed
    ]


def _kinds(evaluation: Report) -> list[dict[str, str]]:
    rows = []
    for kind, row in sorted(evaluation.get("per_kind", {}).items()):
        auroc, recall = row.get("auroc") or {}, row.get("recall") or {}
        rows.append(
            {
                "kind": kind,
                "n": str(row["n"]),
                "auroc": _number(auroc.get("value")),
                "auroc_interval": _interval(auroc),
                "recall": _number(recall.get("value")),
                "recall_interval": _interval(recall),
            }
        )
    return rows


def _plots(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """Title, caption and SVG of each plot; a plot that could not be drawn has an empty one and says why."""
    of_scores = (
        "Where both groups overlap, no threshold tells them apart. Right of the dashed line an image is flagged."
    )
    of_roc = "Recall that each false-positive rate would buy. The dot is the threshold in use."
    plots = [("Score distribution", of_scores, inputs.scores_svg)]
    if inputs.roc_svg is None:
        plots.append(("ROC curve", "Not measured: the test split holds images of one label only.", ""))
    else:
        plots.append(("ROC curve", of_roc, inputs.roc_svg))
    if inputs.training_svg is not None:
        plots.append(("Training", "Losses over the images seen, averaged per interval.", inputs.training_svg))
    return plots


def _gallery(cases: Sequence[HeatMapCase], threshold: float) -> list[dict[str, Any]]:
    found = []
    for group, (title, meaning) in _GROUPS.items():
        shown = [case for case in cases if case.group == group]
        pictures = [
            {
                "src": "data:image/png;base64," + base64.b64encode(case.png).decode(),
                "image_id": case.image_id,
                "kind": case.kind.replace("+", ", "),
                "score": _score(case.score),
                "against": _against(case.score, threshold),
            }
            for case in shown
        ]
        found.append({"title": title, "meaning": meaning, "pictures": pictures})
    return found


def _against(score: float, threshold: float) -> str:
    if score == threshold:
        return "at the threshold"
    return f"{abs(score - threshold):.3g} {'above' if score > threshold else 'below'} the threshold"


def _validation(result: Report) -> dict[str, Any]:
    total = result["passed"] + result["failed"]
    return {
        "title": result["title"],
        "kept": result["failed"] == 0,
        "text": f"{result['passed']} of {total} expectations passed",
        "quarantined": int(result["overview"].get("Quarantined", 0)),
        "files": [(row["item"], "; ".join(row["reasons"])) for row in result.get("items", ())],
        "listed_in": result.get("listed_in", ""),
        "broken": [rule["name"] for rule in result["expectations"] if not rule["passed"]],
    }


def _training(training: Report) -> list[tuple[str, str]]:
    """Budget and settings of the chosen candidate; those of the others differ as the table of candidates says."""
    if "selection" not in training:
        return []
    chosen = training["candidates"][training["selection"]["chosen"]]
    model, train = chosen["model"], chosen["train"]
    weights, decay = train["weights"], train.get("weight_decay", 0.0)
    return [
        ("Training patches", f"{training['train_patches']:,}"),
        ("Budget", f"{train['epochs']:g} passes over them, in batches of {train['batch_size']}"),
        (
            "Optimiser",
            f"{train['optimizer']}, learning rate {train['learning_rate']:g}"
            + (f", weight decay {decay:g}" if decay else ""),
        ),
        ("Objective", train["objective"]),
        (
            "Loss weights, Eq. (5)",
            ", ".join(f"{name} {weights[name]:g}" for name in ("adversarial", "contextual", "latent")),
        ),
        *_networks(model),
        *([("Adversarial loss", "Wasserstein with gradient penalty")] if "adversarial" in train else []),
    ]


def _networks(model: Report) -> list[tuple[str, str]]:
    if model["name"] != "dense_skip_gan":
        return [("System", model["name"].replace("_", " "))]
    attention = model["attention"]
    return [
        ("Generator", f"{model['depth']} levels below the first, {model['base_width']} channels in the first"),
        ("Attention", f"{attention['heads']} heads" if attention["enabled"] else "off"),
        ("Spectral normalisation", "on" if model["spectral_norm"] else "off"),
    ]


def _selection(training: Report) -> dict[str, Any] | None:
    selection = training.get("selection")
    if selection is None:
        return None
    rows = []
    for name, value in selection["values"].items():
        candidate = training["candidates"][name]
        rows.append(
            {
                "name": name,
                "seed": str(candidate["seed"]),
                "images_seen": f"{training['images_seen'][name]:,}",
                "contextual": f"{training['final_losses'][name]['contextual_loss']:.4g}",
                "value": f"{value:.4g}",
                "chosen": name == selection["chosen"],
            }
        )
    criterion = selection["criterion"].replace("_", " ").replace("auroc", "AUROC")
    return {"reason": selection["reason"], "criterion": criterion, "rows": rows}


def _change(inputs: ReportInputs) -> dict[str, Any]:
    """This version beside the champion of the moment when it was registered."""
    champion = inputs.registered.get("champion_before")
    if champion is None:
        text = "There is no champion yet. `vigil promote` makes this version the first."
        return {"text": text, "rows": []}
    if champion["version"] == inputs.registered["version"]:
        text = f"Version {champion['version']} is the champion: nothing changed since it was promoted."
        return {"text": text, "rows": []}
    trained_from = inputs.evaluation.get("parent")
    if trained_from is not None and trained_from["bundle"] == champion["bundle_digest"]:
        text = f"The champion is version {champion['version']}, from which this one was trained; see below."
        return {"text": text, "rows": []}
    if champion["test_digest"] != inputs.registered["test_digest"]:
        text = (
            f"The champion, version {champion['version']}, was measured on other test images, so its numbers cannot be "
            f"held against these. Run the pipeline with the champion's settings on this data to compare."
        )
        return {"text": text, "rows": []}
    rows = []
    for key in ("auroc", "recall", "fpr"):
        before = (champion["evaluation"].get(key) or {}).get("value")
        now = (inputs.evaluation.get(key) or {}).get("value")
        change = "" if before is None or now is None else f"{now - before:+.3f}"
        rows.append({"name": _NAMES[key][0], "before": _number(before), "now": _number(now), "change": change})
    return {"text": f"The champion is version {champion['version']}, measured on the same test images.", "rows": rows}


def _parent(evaluation: Report) -> dict[str, Any] | None:
    """This version beside the one that it was trained from, on old and new test images; None from scratch."""
    found = evaluation.get("parent")
    if found is None:
        return None
    rows = []
    for key, name in (("old", f"Kept with version {found['version']}"), ("new", "Of now")):
        both = found[key]
        for figure in ("auroc", "recall", "fpr"):
            own, before = both[figure] or {}, both[f"parent_{figure}"] or {}
            rows.append(
                {
                    "set": f"{name}: {both['images']['normal']} normal, {both['images']['anomalous']} anomalous",
                    "name": _NAMES[figure][0],
                    "before": _number(before.get("value")),
                    "before_interval": _interval(before),
                    "now": _number(own.get("value")),
                    "now_interval": _interval(own),
                }
            )
    now, before = found["old"]["auroc"], found["old"]["parent_auroc"]
    if now is None or before is None or before["low"] is None:
        tone, text = "mixed", "Whether it forgot could not be measured: too few old test images, or of one label."
    elif now["value"] < before["low"]:
        tone, text = "bad", "It forgets: its AUROC on the old test images lies below the interval of its parent."
    else:
        tone, text = "good", "It keeps what its parent knew: AUROC on the old test images is not below its interval."
    return {"version": found["version"], "tone": tone, "text": text, "rows": rows, "left_out": found["left_out"]}


_FEW_IMAGES = 20


def _limits(inputs: ReportInputs) -> list[str]:
    """What the numbers do not say, as far as the data tell."""
    evaluation, found = inputs.evaluation, []
    images = evaluation["images"]
    if inputs.data_set == "baggage":
        found.append(
            "The images are simulated. The numbers say how well the method works on this simulation, and nothing about "
            "a real scanner."
        )
    found.append(
        "The pair learned what normal images look like. It flags what is unusual, not what is dangerous: a new kind of "
        "harmless object may be flagged, and an anomaly made of familiar parts may pass."
    )
    if not inputs.calibration["promise_kept"]:
        grouped = inputs.calibration.get("anomalous_groups") is not None
        found.append(
            f"There were too few {'groups of ' * grouped}calibration images for the promise that was asked of the "
            f"threshold; it needs at least {inputs.calibration['images_needed']:,}."
        )
    if inputs.calibration["method"] == "recall":
        found.append(
            "The threshold's promise holds for anomalies like those in calibration; others may be found less often."
        )
    else:
        found.append(
            "The threshold was set without any anomaly. It bounds false alarms; the recall is only as measured here."
        )
    moved = evaluation.get("parent", {}).get("left_out", {}).get("train", 0)
    if moved:
        found.append(
            f"{moved} of the training patches that were kept with the parent lie in images that serve for calibration "
            f"or test now. They were not rehearsed, but the parent has seen them, and probably others like them."
        )
    shortcuts = [name for name in inputs.audit["findings"] if name != OFFICIAL_NEAR_DUPLICATES]
    if len(shortcuts) < len(inputs.audit["findings"]):
        found.append(
            "The data set's own split has near-duplicates on both sides. Figures compare with others on that split "
            "and may say too much about new images."
        )
    if shortcuts:
        named = ", ".join(_baseline_name(name) for name in shortcuts)
        found.append(
            f"Normal and anomalous test images differ in how they were made ({named}), and a pair may use that. The "
            f"AUROC does not say how well anomalies are found in images that are otherwise alike."
        )
    few = [kind for kind, row in evaluation.get("per_kind", {}).items() if row["n"] < _FEW_IMAGES]
    if few:
        found.append(f"Fewer than {_FEW_IMAGES} test images of: {', '.join(sorted(few))}. Their rows are rough.")
    if images["groups"] < images["normal"] + images["anomalous"]:
        found.append(
            "Several test images come from the same group (bag, part). The intervals of AUROC respect that; those of "
            "recall and false-positive rate take images for independent and are somewhat too narrow."
        )
    without = evaluation.get("anomalous_images_without_mask_or_box", 0)
    if without:
        found.append(
            f"{without} anomalous test images have no mask or box, and do not count where the map is measured."
        )
    found.append(
        "One training of each candidate: another seed gives other numbers. The intervals cover the choice of test "
        "images, not that of the seed."
    )
    return found


def _digests(inputs: ReportInputs) -> list[tuple[str, str]]:
    named = (("Bundle", "bundle_digest"), ("Test images", "test_digest"))
    return [(name, str(inputs.registered[key])) for name, key in named]
