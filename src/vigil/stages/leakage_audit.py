"""What `vigil audit leakage` does beyond the audit stage: bundles, registered versions, and DVC's own record."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigil.config import Params
from vigil.errors import DataError
from vigil.stages import layout
from vigil.stages.audit import project_inputs

if TYPE_CHECKING:
    from vigil.evaluation.audit_record import Audit, Check
    from vigil.evaluation.leakage import AuditInputs

LOCK = Path("dvc.lock")
_CHOOSING = ("train", "calibrate")
"""Stages that choose something; neither may read what is known of the test split."""
_OF_TEST = (layout.PATCHES["test"], layout.SCORES["test"], layout.MAPS["test"])
_AFTER_TEST = (layout.EVALUATION, layout.TEST_IMAGES, layout.ROC, layout.AUDIT, layout.BUNDLE)


def audit_project(params: Params, bundle: Path | None = None, run_id: str | None = None) -> Audit:
    """The leakage audit of what lies in this folder, with the lineage that dvc.lock records.

    Args:
        params: The project's settings.
        bundle: Audit this bundle's pair, calibration and figures instead, on the data that lies here.
        run_id: The same for the version of this MLflow run.

    Raises:
        DataError: An artefact is missing, or the bundle was made from other data than lies here.
        BundleMismatch: The bundle is damaged.
        RegistryError: No version belongs to the run, or the store does not answer.
    """
    from vigil.evaluation.leakage import audit_leakage

    inputs = project_inputs(params.data, params.patch, params.score, params.calibrate)
    if run_id is not None:
        from vigil.delivery.mlflow_registry import fetch_bundle_of_run

        bundle = fetch_bundle_of_run(params.registration, run_id)
    if bundle is not None:
        inputs = _of_bundle(inputs, bundle)
    audit = audit_leakage(inputs, params.audit)
    return dataclasses.replace(audit, checks={**audit.checks, "dvc_lock": locked_lineage(LOCK)})


def _of_bundle(inputs: AuditInputs, folder: Path) -> AuditInputs:
    from vigil.delivery.bundle import PAIR, load_bundle
    from vigil.evaluation.evaluation import digest_of_test
    from vigil.files import digest_folder
    from vigil.networks.pair import load_pair
    from vigil.scoring.reduction import images_of

    bundle = load_bundle(folder)
    if (source := bundle.record.recalibrated) is not None:
        raise DataError(
            f"{folder}: the bundle was calibrated on images of its own (`vigil calibrate`), which are not in this "
            f"folder. Its pair is that of bundle {source.bundle}: audit that one."
        )
    here = digest_of_test(images_of(inputs.scores["test"]), inputs.manifest)
    other = "pair" if digest_folder(folder / PAIR) != digest_folder(layout.PAIR) else ""
    other = other or ("test images" if bundle.record.test_digest != here else "")
    if other:
        raise DataError(
            f"{folder}: the bundle holds another {other} than this folder, whose data, scores and records of training "
            f"the audit needs. Check out the commit that made the bundle (`git log models/registered.json dvc.lock`, "
            f"`git checkout`, `dvc checkout`), and audit there."
        )
    return dataclasses.replace(
        inputs,
        pair=bundle.pair,
        pair_record=load_pair(folder / PAIR)[1],
        calibration=bundle.calibration,
        evaluation={**bundle.record.evaluation.model_dump(), "test_digest": bundle.record.test_digest},
    )


def locked_lineage(lock: Path) -> Check:
    """Whether DVC's record says that no choosing stage read the test split; not checked where it says nothing."""
    from vigil.evaluation.audit_record import Check

    title = "DVC's record names nothing of the test split among what choices were made from"
    stages = _stages(lock)
    missing = [name for name in _CHOOSING if name not in stages]
    if missing:
        return Check(title, "not_checked", f"{lock} holds no record of {' and '.join(missing)}; `dvc repro` makes one.")
    seen = [
        f"'{name}' read {entry['path']}"
        for name in _CHOOSING
        for entry in stages[name].get("deps", [])
        if any(_meet(Path(entry["path"]), path) for path in (*_OF_TEST, *_AFTER_TEST))
    ]
    if seen:
        text = f"{lock}: {'; '.join(seen)}. Take it out of dvc.yaml and run `dvc repro`."
        return Check(title, "leak", text)
    changed = sorted(set(_changed(stages)))
    if changed:
        text = f"{lock} is of another run: {', '.join(changed)} changed since. Run `dvc repro` to bring it up to date."
        return Check(title, "not_checked", text)
    return Check(title, "passed", f"{lock}: {' and '.join(_CHOOSING)} read no test patch, score or figure.")


def _stages(lock: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(lock.read_text()) if lock.is_file() else {}
    except YAMLError as error:
        raise DataError(f"{lock}: not readable ({error}). Restore it with git, or run `dvc repro`.") from error
    return dict((content or {}).get("stages") or {})


def _meet(one: Path, other: Path) -> bool:
    """Whether one of the paths is the other or lies below it."""
    return one == other or one in other.parents or other in one.parents


def _changed(stages: Mapping[str, Any]) -> Iterator[str]:
    """Files of the choosing stages whose MD5 is not the recorded one."""
    for name in _CHOOSING:
        for entry in [*stages[name].get("deps", []), *stages[name].get("outs", [])]:
            path = Path(entry["path"])
            if not entry["path"].startswith(("data/", "models/", "reports/")) or not path.is_file():
                continue  # folders are named by a digest of DVC's own
            if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != entry.get("md5"):
                yield entry["path"]
