"""Which challenger may become champion, and which champion a rollback goes back to."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from vigil.config import PromoteSection
from vigil.delivery.bundle import AuditSummary, Estimate, EvaluationSummary
from vigil.delivery.mlflow_registry import Version
from vigil.delivery.promotion import (
    EventName,
    HistoryEvent,
    Numbers,
    PromotionResult,
    _event,
    audit_objections,
    champion_before,
    objections,
)
from vigil.errors import ConfigError
from vigil.files import canonical_json


def version(number: int, test: str = "t", **figures: float | None) -> Version:
    report: dict[str, Any] = {"auroc": 0.9, "recall": 0.9, "fpr": 0.1, "threshold": 1.0}
    return Version(number, f"digest-{number}", test, "run", EvaluationSummary.of(report | figures))


CHAMPION = version(1)


@pytest.mark.parametrize(
    ("figures", "rules", "broken"),
    [
        ({"auroc": 0.91}, {}, []),
        ({"auroc": 0.90}, {}, ["AUROC 0.9000 does not exceed champion v1's 0.9000"]),  # equal is not better
        ({"auroc": 0.89}, {}, ["AUROC 0.8900"]),
        ({"auroc": 0.92}, {"min_auroc_gain": 0.03}, ["more than promote.min_auroc_gain (0.03)"]),
        ({"auroc": 0.89}, {"min_auroc_gain": -0.02}, []),
        ({"auroc": 0.95, "recall": 0.885}, {}, []),
        ({"auroc": 0.95, "recall": 0.87}, {}, ["recall 0.8700 is 0.0300 below champion v1's 0.9000"]),
        ({"auroc": 0.95, "recall": 0.5}, {"max_recall_drop": 0.4}, []),
        ({"auroc": 0.95, "fpr": 0.3}, {"max_fpr": 0.2}, ["false-positive rate is 0.3000; promote.max_fpr allows 0.2"]),
        ({"auroc": 0.95, "fpr": None}, {"max_fpr": 0.2}, ["false-positive rate was not measured"]),
        ({"auroc": 0.95, "fpr": None}, {}, []),
        ({"auroc": None}, {}, ["AUROC was not measured"]),
        ({"auroc": 0.8, "recall": 0.5, "fpr": 0.9}, {"max_fpr": 0.5}, ["false-positive", "AUROC", "recall"]),
    ],
)
def test_every_broken_rule_is_named(
    figures: dict[str, float | None], rules: dict[str, float], broken: list[str]
) -> None:
    found = objections(version(2, **figures), CHAMPION, PromoteSection(**rules))
    assert len(found) == len(broken)
    assert all(text in reason for text, reason in zip(broken, found, strict=True))


def test_numbers_of_different_tests_are_not_compared() -> None:
    (reason,) = objections(version(2, test="u", auroc=0.99), CHAMPION, PromoteSection())
    assert "different test images" in reason
    assert "dvc repro" in reason


def trained_from(number: int, *, old: Any, new: float = 0.9, recall: float = 0.9, **more: Any) -> Version:
    """Version 9, tested on other images than its parent, beside it; `old` is its AUROC on the parent's."""
    on_old = {"digest": "o", "auroc": old, "parent_auroc": {"value": 0.9, "low": 0.85, "high": 0.95}}
    on_new = {"digest": "u", "auroc": None, "parent_auroc": {"value": new}, "parent_recall": {"value": recall}}
    parent = {"version": number, "bundle": f"digest-{number}", "old": on_old, "new": on_new, "left_out": {}}
    return version(9, test="u", parent=parent, **more)


@pytest.mark.parametrize(
    ("challenger", "broken"),
    [
        (trained_from(1, old={"value": 0.86}, auroc=0.91), []),
        (trained_from(1, old={"value": 0.85}, auroc=0.91), []),  # at the bound is not below it
        (trained_from(1, old={"value": 0.84}, auroc=0.91), ["it forgets: AUROC 0.8400 on the old test images"]),
        (trained_from(1, old=None, auroc=0.91), ["whether it forgot could not be measured"]),
        (trained_from(1, old={"value": 0.9}, new=0.95, auroc=0.91), ["does not exceed champion v1's 0.9500"]),
        (trained_from(1, old={"value": 0.9}, recall=0.99, auroc=0.91), ["recall 0.9000 is 0.0900 below"]),
        (trained_from(7, old={"value": 0.9}, auroc=0.91), ["was trained from v7, which is not", "different test"]),
    ],
)
def test_a_version_is_held_against_the_parent_that_it_was_measured_beside(
    challenger: Version, broken: list[str]
) -> None:
    found = objections(challenger, CHAMPION, PromoteSection())
    assert len(found) == len(broken), found
    assert all(text in reason for text, reason in zip(broken, found, strict=True))


def test_a_summary_without_a_parent_says_nothing_of_one() -> None:
    assert "parent" not in version(1).evaluation.model_dump(mode="json")
    summary = trained_from(1, old=None).evaluation
    assert EvaluationSummary.model_validate_json(summary.model_dump_json()) == summary


def test_what_was_calibrated_on_images_of_its_own_is_promoted_by_acceptance_alone() -> None:
    """Nothing was measured with its threshold, so no figure is compared, whichever of the two it is."""
    nothing = version(2, test="images", auroc=None, recall=None, fpr=None)
    anew = dataclasses.replace(nothing, recalibrated_from="digest-1")
    for challenger, champion in ((anew, CHAMPION), (version(3), dataclasses.replace(anew, number=2))):
        (reason,) = objections(challenger, champion, PromoteSection())
        assert "v2 was calibrated on images of its own" in reason
        assert "explicit acceptance" in reason
    assert objections(anew, None, PromoteSection()) == []
    assert len(objections(anew, CHAMPION, PromoteSection(max_fpr=0.5))) == 2


def test_a_version_trained_from_one_that_was_calibrated_anew_is_held_against_it() -> None:
    champion = dataclasses.replace(version(1, test="images", auroc=None), recalibrated_from="digest-0")
    assert objections(trained_from(1, old={"value": 0.86}, auroc=0.91), champion, PromoteSection()) == []


def test_without_a_champion_only_the_false_positive_rate_counts() -> None:
    assert objections(version(1, auroc=0.1, recall=0.0), None, PromoteSection()) == []
    assert len(objections(version(1, fpr=0.3), None, PromoteSection(max_fpr=0.2))) == 1


def audit(leaks: tuple[str, ...] = (), **aurocs: float) -> AuditSummary:
    findings = {name: Estimate(value=value, low=value - 0.03, high=value + 0.03) for name, value in aurocs.items()}
    return AuditSummary(leaks=leaks, findings=findings, digest="d" * 64)


def audited(*arguments: Any, **named: Any) -> Version:
    return dataclasses.replace(version(2), audit=audit(*arguments, **named))


def test_a_leak_is_an_objection_and_so_is_every_shortcut_that_is_not_accepted_by_name() -> None:
    assert audit_objections(audited()) == []
    (leak,) = audit_objections(audited(("score_order",)))
    assert "LEAK: score_order" in leak
    shortcuts = audited(brightness=0.9, image_area=0.95)
    first, second = audit_objections(shortcuts)
    assert "'brightness' alone separates the test split, AUROC 0.900 [0.870, 0.930]" in first
    assert "--accept-finding image_area" in second
    assert len(audit_objections(shortcuts, ["brightness"])) == 1
    assert audit_objections(shortcuts, ["image_area", "brightness"]) == []
    assert len(audit_objections(audited(("selection",), brightness=0.9), ["brightness"])) == 1


def test_near_duplicates_across_the_official_split_have_to_be_accepted_by_name() -> None:
    report = {"leaks": [], "findings": {"official_near_duplicates": {"share": 0.02, "low": 0.01, "high": 0.05}}}
    found = dataclasses.replace(version(2), audit=AuditSummary.of(report, "d" * 64))
    (reason,) = audit_objections(found)
    assert "own split has near-duplicates on both sides, a share of the test images of 0.020 [0.010, 0.050]" in reason
    assert "--accept-finding official_near_duplicates" in reason
    assert audit_objections(found, ["official_near_duplicates"]) == []


def test_only_what_was_found_can_be_accepted() -> None:
    with pytest.raises(ConfigError, match=r"no finding 'brightnes' to accept; it found brightness"):
        audit_objections(audited(brightness=0.9), ["brightnes"])
    with pytest.raises(ConfigError, match=r"'score_order' to accept; it found none"):
        audit_objections(audited(("score_order",)), ["score_order"])


def test_a_version_without_an_audit_is_told_to_get_one() -> None:
    (reason,) = audit_objections(version(2))
    assert "without a leakage audit" in reason


def events(*moves: tuple[EventName, int | None, int]) -> list[HistoryEvent]:
    numbers = Numbers(0.9, 0.9, 0.1)
    return [
        HistoryEvent(i, name, "2026-01-01T00:00:00+00:00", "ann", "why", before, to, numbers, None)
        for i, (name, before, to) in enumerate(moves, 1)
    ]


FIRST = ("promoted", None, 1)
SECOND = ("promoted", 1, 2)
THIRD = ("promoted", 2, 3)
BACK_TO_2 = ("rolled_back", 3, 2)


@pytest.mark.parametrize(
    ("moves", "current", "expected"),
    [
        ((), 5, None),
        ((FIRST,), 1, None),
        ((FIRST, SECOND), 2, 1),
        ((FIRST, SECOND, THIRD), 3, 2),
        ((FIRST, SECOND, THIRD, BACK_TO_2), 2, 1),  # twice back is two promotions back, not forth
        ((FIRST, SECOND, THIRD, BACK_TO_2, ("rolled_back", 2, 1)), 1, None),
        ((FIRST, SECOND, THIRD, BACK_TO_2, ("promoted", 2, 4)), 4, 2),
        ((FIRST, ("refused", 1, 2)), 1, None),
        ((FIRST, ("refused", 1, 2), ("promoted", 1, 3)), 3, 1),
        ((FIRST, ("promoting", 1, 2)), 2, 1),  # cut off after the alias moved
        ((FIRST, ("promoting", 1, 2)), 1, None),  # cut off before
        ((FIRST, ("promoting", 1, 2), ("promoted", 2, 3)), 3, 2),
        ((FIRST, ("promoting", 1, 2), ("promoted", 1, 3)), 3, 1),
        ((FIRST, SECOND, ("rolling_back", 2, 1)), 1, None),
        ((FIRST, SECOND, ("rolling_back", 2, 1)), 2, 1),
        ((FIRST, SECOND), 9, 2),  # moved by hand: back to the last recorded champion
        ((("promoted", 7, 8),), 8, 7),  # promoted over a champion that was set by hand
        ((FIRST, SECOND, ("promoted", 2, 1)), 1, 2),  # an old version promoted again
    ],
)
def test_the_champion_before(moves: tuple[Any, ...], current: int, expected: int | None) -> None:
    assert champion_before(events(*moves), current) == expected


def test_an_event_survives_its_json_and_fits_into_a_tag() -> None:
    long = "x" * 400
    event = HistoryEvent(
        12, "refused", "2026-01-01T00:00:00+00:00", long, long, 1, 2, Numbers(0.123456789012345678, None, 0.1),
        Numbers(0.9, 0.9, 0.1), reasons=(long,) * 6, accepted_findings=("jpeg_quantisation",) * 9,
    )  # fmt: skip
    text = canonical_json(event.as_json())
    assert len(text) < 5000
    assert _event(text) == event
    assert json.loads(text)["challenger"]["recall"] is None


def test_descriptions_say_who_what_and_why() -> None:
    (event,) = events(("refused", 1, 2))
    event = dataclasses.replace(event, reasons=("AUROC too low",))
    assert event.describe().splitlines() == [
        "2026-01-01T00:00:00+00:00  refused      v1 -> v2  ann: why  [AUROC 0.9000, recall 0.9000, FPR 0.1000]",
        "    - AUROC too low",
    ]
    assert PromotionResult("vigil", 2, 2, False, None).describe() == (
        "vigil v2 is the champion already; nothing to do."
    )
    moved = dataclasses.replace(event, event="promoted", from_version=None, reasons=())
    assert (
        PromotionResult("vigil", 2, None, True, moved)
        .describe()
        .startswith("vigil v2 is now the champion (there was none before).")
    )
