"""Which version serves: the challenger becomes champion only if it loads, scores, and is better on the same test.

One promoter at a time. A lock file keeps two promoters of one host apart, and the champion alias is read again just
before it moves, so that a promoter on another host is noticed; MLflow itself offers no compare-and-set. Every attempt
is kept in the registry as a tag of the registered model (`vigil.history.000007`), first as `promoting` or
`rolling_back`, then with its outcome, so that a killed promotion shows too.
"""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from vigil.config import PromoteSection, RegisterSection
from vigil.delivery.bundle import Bundle, EvaluationSummary, ParentSummary, load_bundle
from vigil.delivery.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    Version,
    fetch_bundle,
    names_model,
    version_number,
    version_with,
)
from vigil.delivery.mlflow_tracking import absolute_uri, import_mlflow, open_store, shortened, store_errors
from vigil.delivery.verdict import judge_encoded
from vigil.errors import BundleMismatch, ConfigError, PromotionRefused, RegistryError, VigilError
from vigil.evaluation.audit_record import OFFICIAL_NEAR_DUPLICATES
from vigil.files import canonical_json, digest_json
from vigil.seeding import numpy_generator

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)
_TAG = "vigil.history."
_TEXT_LIMIT, _REASONS = 400, 6  # a registered model's tag holds 5,000 characters in some databases

EventName = Literal["promoting", "promoted", "refused", "rolling_back", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The headline numbers that a decision was made on; None where a test could not give one."""

    auroc: float | None
    recall: float | None
    fpr: float | None

    @staticmethod
    def of(evaluation: EvaluationSummary) -> Numbers:
        """The values without their intervals."""
        values = (None if e is None else e.value for e in (evaluation.auroc, evaluation.recall, evaluation.fpr))
        return Numbers(*values)

    def describe(self) -> str:
        """E.g. `AUROC 0.912, recall 0.950, FPR 0.120`."""
        named = (("AUROC", self.auroc), ("recall", self.recall), ("FPR", self.fpr))
        return ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in named)


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One line of `vigil history`."""

    number: int
    event: EventName
    """`promoting`, `rolling_back`: it was cut off before its outcome was written."""
    when: str
    """UTC, ISO 8601."""
    who: str
    why: str
    from_version: int | None
    """The champion before; None where there was none."""
    to_version: int
    """The version that was to become champion."""
    challenger: Numbers
    champion: Numbers | None
    reasons: tuple[str, ...] = ()
    """Why it was refused; for `promoted`, the objections that were overruled."""
    accepted_findings: tuple[str, ...] = ()
    """Findings of the leakage audit in the data that were accepted for the reason in `why`."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """One line for a terminal, and one more per reason."""
        before = "none" if self.from_version is None else f"v{self.from_version}"
        why = self.why or "(no reason given)"
        line = f"{self.when}  {self.event:<12} {before} -> v{self.to_version}  {self.who}: {why}"
        accepted = [f"    accepted finding: {name}" for name in self.accepted_findings]
        return "\n".join([f"{line}  [{self.challenger.describe()}]", *(f"    - {r}" for r in self.reasons), *accepted])


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """What a promotion or a rollback did."""

    model: str
    version: int
    """The champion now."""
    previous: int | None
    """The champion before."""
    moved: bool
    """False: the challenger was the champion already."""
    event: HistoryEvent | None
    """As it was recorded; None where nothing moved."""

    def describe(self) -> str:
        """What happened, for a terminal."""
        if self.event is None:
            return f"{self.model} v{self.version} is the champion already; nothing to do."
        was = "there was none before" if self.previous is None else f"it was v{self.previous}"
        lines = [
            f"{self.model} v{self.version} is now the champion ({was}).",
            f"  now:    {self.event.challenger.describe()}",
        ]
        if self.event.champion is not None:
            lines.append(f"  before: {self.event.champion.describe()}")
        lines += [f"  accepted finding: {name}" for name in self.event.accepted_findings]
        return "\n".join([*lines, *(f"  overruled: {reason}" for reason in self.event.reasons)])


# ------------------------------------------------------------------------------------------------------------- actions


def promote(
    section: RegisterSection,
    rules: PromoteSection,
    *,
    who: str,
    why: str,
    accept: bool = False,
    accept_findings: Sequence[str] = (),
) -> PromotionResult:
    """Makes the challenger the champion, if it loads, scores a fixed batch, and keeps the rules.

    Without a champion only `max_fpr` and the leakage audit apply. A challenger that was trained from the champion is
    also held against it on the test images that were kept with the champion: it must not have forgotten what they ask.
    A challenger that is the champion already changes nothing, and nothing is recorded.

    Args:
        section: Where the registry is.
        rules: What the challenger must show.
        who: Kept in the history.
        why: Kept in the history.
        accept: True overrules the rules (never a bundle that is damaged or does not score, nor the audit); needs `why`.
        accept_findings: Findings of the audit in the data that are accepted, by name; needs `why`.

    Raises:
        PromotionRefused: The challenger does not score or breaks a rule; the message lists every reason.
        BundleMismatch: The challenger's bundle is damaged.
        RegistryError: There is no challenger, another promotion is under way, or the store does not answer.
        ConfigError: `accept` or `accept_findings` without `why`, or the audit has no finding of such a name.
    """
    if accept_findings and not why.strip():
        raise ConfigError("accepting a finding of the leakage audit needs a reason: say why")
    if accept and not why.strip():
        raise ConfigError("accepting a challenger against the rules needs a reason: say why")
    with _registry(section) as client:
        name = section.model_name
        challenger, champion = version_with(client, name, CHALLENGER), version_with(client, name, CHAMPION)
        if challenger is None:
            raise RegistryError(
                f"the registry at '{section.tracking_uri}' holds no challenger of '{name}'. Run `dvc repro` to train "
                f"and register one."
            )
        if champion is not None and champion.number == challenger.number:
            return PromotionResult(name, champion.number, champion.number, False, None)
        accepted = tuple(dict.fromkeys(accept_findings))
        firm, reasons = audit_objections(challenger, accepted), objections(challenger, champion, rules)
        return _change_champion(
            client, section, "promoting", who, why, champion, challenger, reasons, accept, firm, accepted
        )


def rollback(section: RegisterSection, *, who: str, why: str) -> PromotionResult:
    """Makes the champion before this one the champion again, after it has scored the fixed batch.

    Rolling back twice goes back two promotions.

    Raises:
        RegistryError: There is no champion, or no recorded one before it, or the store does not answer.
        BundleMismatch: The earlier champion's bundle is damaged.
        PromotionRefused: The earlier champion does not score.
    """
    with _registry(section) as client:
        name = section.model_name
        champion = version_with(client, name, CHAMPION)
        number = None if champion is None else champion_before(_events(client, name), champion.number)
        if number is None:
            standing = "there is no champion" if champion is None else f"v{champion.number} is the first champion"
            raise RegistryError(
                f"nothing to roll back to: {standing} of '{name}' in the registry at '{section.tracking_uri}'. "
                f"`vigil history` lists every promotion."
            )
        earlier = version_number(client, name, number)
        return _change_champion(client, section, "rolling_back", who, why, champion, earlier, [], False)


def history(section: RegisterSection) -> list[HistoryEvent]:
    """Every promotion, refusal and rollback, oldest first; empty where nothing was tried.

    Raises:
        RegistryError: The store does not answer.
    """
    client = open_store(section)
    try:
        return _events(client, section.model_name)
    except store_errors() as error:
        raise RegistryError(f"the MLflow store at '{section.tracking_uri}': {shortened(error)}") from error


# --------------------------------------------------------------------------------------------------------------- rules


def objections(challenger: Version, champion: Version | None, rules: PromoteSection) -> list[str]:
    """Every rule that the challenger breaks; none means that it may become champion."""
    now = Numbers.of(challenger.evaluation)
    found = []
    if rules.max_fpr < 1.0 and (now.fpr is None or now.fpr > rules.max_fpr):
        measured = "was not measured" if now.fpr is None else f"is {now.fpr:.4f}"
        found.append(f"false-positive rate {measured}; promote.max_fpr allows {rules.max_fpr:g}")
    if champion is None:
        return found
    parent = challenger.evaluation.parent
    before = standing(challenger, champion)
    anew = [version.number for version in (challenger, champion) if version.recalibrated_from is not None]
    if before is None and anew:
        found.append(
            f"v{anew[0]} was calibrated on images of its own (`vigil calibrate`) and measured on no test image, so its "
            f"numbers cannot be compared: look at what its calibration.json promises, and promote with an explicit "
            f"acceptance and a reason"
        )
        return found
    if before is None:
        if parent is not None:
            found.append(
                f"challenger v{challenger.number} was trained from v{parent.version}, which is not the champion "
                f"(v{champion.number}): run `vigil train --from champion`"
            )
        found.append(
            f"the two were measured on different test images (challenger v{challenger.number}: "
            f"{challenger.test_digest[:12]}, champion v{champion.number}: {champion.test_digest[:12]}), so their "
            f"numbers cannot be compared: run `dvc repro` with the champion's params on the challenger's data and "
            f"register it, or promote with an explicit acceptance and a reason"
        )
        return found
    if now.auroc is None or before.auroc is None:
        found.append("AUROC was not measured, so the two cannot be compared: the test split needs both labels")
    elif not now.auroc - before.auroc > rules.min_auroc_gain:
        found.append(
            f"AUROC {now.auroc:.4f} does not exceed champion v{champion.number}'s {before.auroc:.4f} by more than "
            f"promote.min_auroc_gain ({rules.min_auroc_gain:g})"
        )
    if now.recall is not None and before.recall is not None and before.recall - now.recall > rules.max_recall_drop:
        found.append(
            f"recall {now.recall:.4f} is {before.recall - now.recall:.4f} below champion v{champion.number}'s "
            f"{before.recall:.4f}; promote.max_recall_drop allows {rules.max_recall_drop:g}"
        )
    if parent is not None:
        found += _forgotten(parent)
    return found


def standing(challenger: Version, champion: Version) -> Numbers | None:
    """The champion's numbers on the test images of the challenger; None where nobody measured them.

    They are its own where both were tested on the same images. A challenger that was trained from this very champion
    carries them too, since both were measured there.
    """
    if challenger.test_digest == champion.test_digest:
        return Numbers.of(champion.evaluation)
    parent = challenger.evaluation.parent
    if parent is None or parent.bundle != champion.bundle_digest or parent.new.digest != challenger.test_digest:
        return None
    measured = (parent.new.parent_auroc, parent.new.parent_recall, parent.new.parent_fpr)
    return Numbers(*(None if estimate is None else estimate.value for estimate in measured))


def _forgotten(parent: ParentSummary) -> list[str]:
    """What a version lost of what its parent knew: AUROC on the old test images below the parent's interval."""
    now, before = parent.old.auroc, parent.old.parent_auroc
    if now is None or before is None or before.low is None:
        return [
            f"whether it forgot could not be measured: the test images that were kept with v{parent.version} are too "
            f"few, or of one label"
        ]
    if now.value < before.low:
        return [
            f"it forgets: AUROC {now.value:.4f} on the old test images, below the interval of v{parent.version}, which "
            f"reaches {before.value:.4f} [{before.low:.4f}, {before.high:.4f}] there; raise start.rehearsal_share"
        ]
    return []


def audit_objections(challenger: Version, accepted: Sequence[str] = ()) -> list[str]:
    """What the leakage audit says against the challenger; `accept` overrules none of it.

    Args:
        challenger: The version that is to become champion.
        accepted: Names of the findings that are accepted.

    Raises:
        ConfigError: One of `accepted` is not what the audit found.
    """
    audit = challenger.audit
    found = {} if audit is None else audit.findings
    if unknown := [name for name in accepted if name not in found]:
        known = f"it found {', '.join(found)}" if found else "it found none"
        raise ConfigError(f"the audit of v{challenger.number} found no finding '{unknown[0]}' to accept; {known}")
    if audit is None:
        return [f"v{challenger.number} was registered without a leakage audit; `dvc repro` audits and registers anew"]
    reasons = [
        f"the leakage audit found a LEAK: {name}; `vigil audit leakage` says what and where" for name in audit.leaks
    ]
    for name, estimate in found.items():
        if name not in accepted:
            low = "-" if estimate.low is None else f"{estimate.low:.3f}"
            high = "-" if estimate.high is None else f"{estimate.high:.3f}"
            if name == OFFICIAL_NEAR_DUPLICATES:
                what = "the data set's own split has near-duplicates on both sides, a share of the test images of"
            else:
                what = f"shortcut in the data: '{name}' alone separates the test split, AUROC"
            reasons.append(
                f"{what} {estimate.value:.3f} [{low}, {high}]; if that is acceptable, promote with --accept-finding "
                f"{name} and --why"
            )
    return reasons


def champion_before(events: list[HistoryEvent], current: int) -> int | None:
    """The champion before the current one, from the recorded moves; None where there was none.

    A move that was cut off counts if the champion seen next was its target. A champion that was set by hand, outside
    of Vigil, has the last recorded champion before it.
    """
    stack: list[int] = []
    seen_next = [*(event.from_version for event in events[1:]), current]
    for event, seen in zip(events, seen_next, strict=False):
        cut_off = event.event in ("promoting", "rolling_back")
        if event.event == "refused" or (cut_off and seen != event.to_version):
            continue
        if event.from_version is not None and stack[-1:] != [event.from_version]:
            stack.append(event.from_version)
        if event.event in ("rolled_back", "rolling_back") and stack[-2:-1] == [event.to_version]:
            stack.pop()
        else:
            stack.append(event.to_version)
    if stack[-1:] == [current]:
        stack.pop()
    return stack[-1] if stack else None


# --------------------------------------------------------------------------------------------------------------- steps


def _change_champion(
    client: MlflowClient,
    section: RegisterSection,
    action: Literal["promoting", "rolling_back"],
    who: str,
    why: str,
    champion: Version | None,
    to: Version,
    reasons: list[str],
    accept: bool,
    firm: Sequence[str] = (),
    accepted_findings: tuple[str, ...] = (),
) -> PromotionResult:
    """Records the attempt, proves the version, moves the alias, records the outcome.

    `firm` reasons are those that `accept` does not overrule.
    """
    reasons = [*firm, *reasons]
    name = section.model_name
    previous = None if champion is None else champion.number
    event = HistoryEvent(
        number=1 + max((e.number for e in _events(client, name)), default=0),
        event=action,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        who=shortened(who, _TEXT_LIMIT),
        why=shortened(why, _TEXT_LIMIT),
        from_version=previous,
        to_version=to.number,
        challenger=Numbers.of(to.evaluation),
        champion=None if champion is None else standing(to, champion) or Numbers.of(champion.evaluation),
        reasons=tuple(shortened(reason, _TEXT_LIMIT) for reason in reasons[:_REASONS]),
        accepted_findings=accepted_findings,
    )
    _write(client, name, event)
    against = "there is no champion yet" if previous is None else f"champion v{previous} stays"
    listed = "\n".join(f"  - {reason}" for reason in reasons)
    refusal = PromotionRefused(f"{name} v{to.number} is not promoted, {against}:\n{listed}")
    try:
        prove(section, to)
        if firm or (reasons and not accept):
            raise refusal
        _move_alias(client, name, previous, to.number)
    except VigilError as error:
        others = () if error is refusal else (shortened(error, _TEXT_LIMIT),)
        _write(client, name, dataclasses.replace(event, event="refused", reasons=others + event.reasons))
        raise
    done = dataclasses.replace(event, event="promoted" if action == "promoting" else "rolled_back")
    _write(client, name, done)
    _log.info("%s: champion %s -> v%s", name, "none" if previous is None else f"v{previous}", to.number)
    return PromotionResult(name, to.number, previous, True, done)


def _move_alias(client: MlflowClient, name: str, expected: int | None, to: int) -> None:
    current = version_with(client, name, CHAMPION)
    found = None if current is None else current.number
    if found != expected:
        raise RegistryError(
            f"the champion of '{name}' changed while v{to} was checked (from v{expected} to v{found}): someone else "
            f"promotes too. Look at `vigil history` and try again."
        )
    client.set_registered_model_alias(name, CHAMPION, str(to))


def prove(section: RegisterSection, version: Version) -> None:
    """Verifies the version's bundle and scores `fixed_batch` twice through MLflow, as a model server would.

    Logging and registering load nothing, so a version can be in the registry and not work at all.

    Raises:
        BundleMismatch: The bundle in the registry is damaged, or its numbers are not those that were registered.
        PromotionRefused: The version does not load, or its scores are not finite, repeatable and the bundle's own.
    """
    import pandas as pd

    mlflow = import_mlflow()
    which = f"{section.model_name} v{version.number}"
    with tempfile.TemporaryDirectory() as scratch:  # not the cache: what counts are the registry's own bytes
        bundle = load_bundle(fetch_bundle(section, version, Path(scratch)))
    recorded = (bundle.record.evaluation, bundle.record.test_digest, bundle.record.audit)
    if recorded != (version.evaluation, version.test_digest, version.audit):
        raise BundleMismatch(f"{which}: the numbers in the registry's tags are not those of its bundle; register again")
    batch = fixed_batch(bundle)
    search_path = sys.path.copy()
    try:
        model = mlflow.pyfunc.load_model(f"models:/{section.model_name}/{version.number}")
        scores = [list(model.predict(pd.DataFrame({"image": batch}))["score"]) for _ in range(2)]
    # The version's own code may raise anything.
    except Exception as error:
        raise PromotionRefused(f"{which} does not load and score a fixed batch: {shortened(error)}") from error
    finally:
        sys.path[:] = search_path  # MLflow puts the version's own copy of the package in front and leaves it there
    expected = [judgement.score for judgement in judge_encoded(bundle, batch, device="auto")]
    if None in expected or not np.isfinite(np.array(scores, np.float64)).all():
        raise PromotionRefused(f"{which} gives a fixed batch scores that are no numbers: {scores[0]}")
    if not scores[0] == scores[1] == expected:
        raise PromotionRefused(
            f"{which} does not repeat its scores of a fixed batch: {scores[0]}, then {scores[1]}; opened directly, the "
            f"bundle gives {expected}"
        )


def fixed_batch(bundle: Bundle) -> list[bytes]:
    """Four images as PNG, always the same for a bundle's preprocessing: flat, gradient, noise, and both halved."""
    side = max(bundle.patch.patch_size_px, bundle.accept.min_side_px)
    ramp = np.add.outer(np.arange(side), np.arange(side)) * (255 / (2 * side - 2))
    noise = numpy_generator(0, "promotion batch").uniform(0, 255, (side, side))
    images = (np.full((side, side), 128.0), ramp, noise, (ramp + noise) / 2)
    encoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).convert(bundle.accept.modes[-1]).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def _events(client: MlflowClient, name: str) -> list[HistoryEvent]:
    tags = client.get_registered_model(name).tags if names_model(client, name) else {}
    return [_event(tags[key]) for key in sorted(key for key in tags if key.startswith(_TAG))]


def _event(text: str) -> HistoryEvent:
    values = json.loads(text)
    for field in ("challenger", "champion"):
        values[field] = None if values[field] is None else Numbers(**values[field])
    for field in ("reasons", "accepted_findings"):
        values[field] = tuple(values.get(field, ()))
    return HistoryEvent(**values)


def _write(client: MlflowClient, name: str, event: HistoryEvent) -> None:
    client.set_registered_model_tag(name, f"{_TAG}{event.number:06d}", canonical_json(event.as_json()))


@contextmanager
def _registry(section: RegisterSection) -> Iterator[MlflowClient]:
    """A client of the store, while no other promoter of this host works on the same model."""
    client = open_store(section)
    identity = digest_json([absolute_uri(section.tracking_uri), section.model_name])[:16]
    path = Path(tempfile.gettempdir()) / f"vigil-promotion-{os.getuid()}-{identity}.lock"
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RegistryError(f"another promotion of '{section.model_name}' is under way; try again later") from error
        yield client
    except store_errors() as error:
        raise RegistryError(f"the MLflow store at '{section.tracking_uri}' refused: {shortened(error)}") from error
    finally:
        os.close(file)
