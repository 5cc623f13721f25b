"""MLflow's model registry: one version per bundle, known by the bundle's digest.

A version is a pyfunc (`vigil_pyfunc.py`, models from code) that carries the whole bundle and a copy of this package, so
that `mlflow.pyfunc.load_model` needs neither Vigil nor a pickle. Aliases say which version serves.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vigil
from vigil.config import Parent, RegisterSection
from vigil.delivery.bundle import PAIR, AuditSummary, BundleRecord, EvaluationSummary, read_record, verify_bundle
from vigil.delivery.mlflow_tracking import (
    experiment_id,
    find_training_run,
    import_mlflow,
    log_files,
    open_store,
    shortened,
    store_errors,
    without_advice,
)
from vigil.errors import BundleMismatch, RegistryError
from vigil.files import digest_folder, written_aside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

_log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
AUDIT_TAG = "vigil.audit"
DIGEST_TAG, EVALUATION_TAG, TEST_TAG = "vigil.bundle_digest", "vigil.evaluation", "vigil.test_digest"
DATA_TAG, REHEARSAL_TAG = "vigil.data_digest", "vigil.rehearsal_digest"
RECALIBRATED_TAG = "vigil.recalibrated_from"
BUNDLES = Path(".vigil/bundles")
"""Where bundles of registered versions are kept after a download, by digest."""
REHEARSALS = Path(".vigil/rehearsal")
"""Where the samples that were kept with versions lie after a download, by digest."""
_ARTIFACT, _REHEARSAL = "bundle", "rehearsal"


@dataclass(frozen=True, slots=True)
class Version:
    """A model version, as its tags describe it."""

    number: int
    bundle_digest: str
    test_digest: str
    run_id: str
    evaluation: EvaluationSummary
    data_digest: str | None = None
    """Of the patches that the pair was trained on; None where it was not written."""
    rehearsal_digest: str | None = None
    """Of the sample of old data that is kept with the version; None where there is none."""
    audit: AuditSummary | None = None
    """None where it was registered by a version of Vigil without an audit."""
    recalibrated_from: str | None = None
    """Digest of the bundle whose pair it has, where its threshold was fitted on other images (`vigil calibrate`)."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "version": self.number,
            "bundle_digest": self.bundle_digest,
            "test_digest": self.test_digest,
            "run_id": self.run_id,
            "evaluation": self.evaluation.model_dump(mode="json"),
            "audit": None if self.audit is None else self.audit.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """What `register` did."""

    name: str
    version: Version
    created: bool
    """False: the registry held this very bundle already."""
    alias: str
    champion_before: Version | None
    """The champion at that moment; None where nothing was promoted yet."""

    def as_json(self) -> dict[str, Any]:
        """JSON values for `models/registered.json`: equal for an equal bundle in an unchanged registry."""
        champion = self.champion_before
        return {
            "name": self.name,
            **self.version.as_json(),
            "alias": self.alias,
            "champion_before": None if champion is None else champion.as_json(),
        }


def register(
    bundle: Path,
    section: RegisterSection,
    *,
    metrics: Mapping[str, float] | None = None,
    files: Sequence[Path] = (),
    rehearsal: Path | None = None,
) -> RegisteredVersion:
    """Registers the bundle as a model version with the alias `challenger`.

    Registering an equal bundle again gives the version that is there, whoever built it.

    Args:
        bundle: The bundle's folder. The version belongs to the run that trained its pair, found by the pair's digest;
            where this store holds none (the pair was trained elsewhere and pulled), and for a bundle that was
            calibrated anew, a run of its own is made.
        section: Where the registry is.
        metrics: Further numbers for the run; the bundle's own are logged in any case.
        files: Reports and plots (files or folders) for the run; those that are missing are left out.
        rehearsal: Folder of the sample of data to keep with the version, for those that will be trained from it; it
            lies beside the bundle and is not served. A bundle that was calibrated anew keeps that of the version
            whose pair it has, where this store knows it.

    Raises:
        BundleMismatch: The bundle's record is damaged.
        RegistryError: The store does not answer or refuses.
    """
    record = read_record(bundle)
    client = open_store(section)
    name = section.model_name
    try:
        champion = version_with(client, name, CHAMPION)
        found = _by_digest(client, name, record.digest)
        if found is None and record.recalibrated is not None and rehearsal is None:
            before = _by_digest(client, name, record.recalibrated.bundle)
            if before is not None and before.rehearsal_digest is not None:
                rehearsal = _fetch_rehearsal(before.run_id, before.rehearsal_digest)
        version = found or _create(client, section, bundle, record, metrics or {}, files, rehearsal)
        client.set_registered_model_alias(name, CHALLENGER, str(version.number))
    except store_errors() as error:
        raise RegistryError(
            f"the MLflow store at '{section.tracking_uri}' did not register '{name}': {shortened(error)}. "
            f"Nothing was promoted; run the register stage again."
        ) from error
    return RegisteredVersion(name, version, found is None, CHALLENGER, champion)


def _create(
    client: MlflowClient,
    section: RegisterSection,
    bundle: Path,
    record: BundleRecord,
    metrics: Mapping[str, float],
    files: Sequence[Path],
    rehearsal: Path | None,
) -> Version:
    mlflow = import_mlflow()
    source = record.recalibrated
    run_id = None if source else find_training_run(client, section, digest_folder(bundle / PAIR))
    if run_id is None:
        tags = {"mlflow.runName": "calibrate" if source else "register"}
        run_id = client.create_run(experiment_id(client, section), tags=tags).info.run_id
    numbers = {name: estimate.value for name, estimate in record.evaluation.figures.items()}
    for key, value in {**metrics, **numbers}.items():
        client.log_metric(run_id, key, value)
    log_files(client, run_id, files, "reports")
    with without_advice(), mlflow.start_run(run_id=run_id, nested=True, log_system_metrics=False):
        model = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("vigil_pyfunc.py")),
            artifacts={_ARTIFACT: str(bundle)},
            code_paths=[str(Path(vigil.__file__).parent)],
            signature=signature(),
            pip_requirements=core_requirements(),
            metadata={DIGEST_TAG: record.digest},
        )
    if not names_model(client, section.model_name):
        client.create_registered_model(section.model_name, description="Vigil bundles; see `vigil history`.")
    tags = {
        DIGEST_TAG: record.digest,
        TEST_TAG: record.test_digest,
        EVALUATION_TAG: record.evaluation.model_dump_json(),
        **({} if record.audit is None else {AUDIT_TAG: record.audit.model_dump_json()}),
        "vigil.data_set": record.data_set,
        DATA_TAG: record.data_digest,
        "vigil.version": record.vigil_version,
    }
    if rehearsal is not None:
        tags[REHEARSAL_TAG] = digest_folder(rehearsal)
        client.log_artifacts(run_id, str(rehearsal), f"{_REHEARSAL}/{tags[REHEARSAL_TAG]}")
    if source is not None:
        tags[RECALIBRATED_TAG] = source.bundle
    if (parent := record.evaluation.parent) is not None:
        tags |= {"vigil.parent_version": str(parent.version), "vigil.parent_bundle_digest": parent.bundle}
    # The tags are written with the version, in one call: a version without its digest never exists.
    made = client.create_model_version(
        section.model_name, source=model.model_uri, run_id=run_id, model_id=model.model_id, tags=tags
    )
    return _version(made)


def signature() -> ModelSignature:
    """One column of encoded images in; verdict, scores, threshold and reason out."""
    import_mlflow()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(
            [
                ColSpec("string", "verdict"),
                ColSpec("double", "score", required=False),
                ColSpec("double", "scaled_score", required=False),
                ColSpec("double", "threshold"),
                ColSpec("string", "reason", required=False),
            ]
        ),
    )


def core_requirements() -> list[str]:
    """The core's dependencies, pinned to the versions that run here; what a model server installs."""
    names = [
        match.group()
        for line in importlib.metadata.requires("vigil") or []
        if "extra ==" not in line and (match := re.match(r"[A-Za-z0-9._-]+", line))
    ]
    # A local part such as 2.13.0+cpu is an index's own and would not be found elsewhere.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in sorted(names)]


def attach_to_version(section: RegisterSection, number: int, paths: Sequence[Path]) -> None:
    """Copies files and folders into the artefacts of the run that the version of this number belongs to.

    Raises:
        RegistryError: The store does not answer or does not know the version.
    """
    client = open_store(section)
    try:
        run_id = version_number(client, section.model_name, number).run_id
        log_files(client, run_id, paths, "reports")
    except store_errors() as error:
        raise RegistryError(
            f"the MLflow store at '{section.tracking_uri}' took no files for '{section.model_name}' version {number}: "
            f"{shortened(error)}. Run the register stage again (`dvc repro --force --single-item register`)."
        ) from error


def champion(section: RegisterSection) -> Version | None:
    """The version that serves; None where nothing was promoted yet.

    Raises:
        RegistryError: The store does not answer.
    """
    client = open_store(section)
    try:
        return version_with(client, section.model_name, CHAMPION)
    except store_errors() as error:
        raise RegistryError(f"the MLflow store at '{section.tracking_uri}': {shortened(error)}") from error


def load_champion_bundle(section: RegisterSection, keep_in: Path = BUNDLES) -> Path:
    """The folder of the champion's bundle, downloaded once and kept by digest; open it with `load_bundle`.

    Raises:
        RegistryError: There is no champion, or the store does not answer.
        BundleMismatch: The registry's files are not the bundle that was registered.
    """
    client = open_store(section)
    try:
        version = version_with(client, section.model_name, CHAMPION)
        if version is None:
            raise RegistryError(
                f"the registry at '{section.tracking_uri}' holds no champion of '{section.model_name}'. Run "
                f"`vigil promote`, or name a bundle folder, e.g. `vigil screen --bundle models/bundle PATH`."
            )
        return fetch_bundle(section, version, keep_in)
    except store_errors() as error:
        raise RegistryError(f"the MLflow store at '{section.tracking_uri}': {shortened(error)}") from error


def fetch_bundle_of_run(section: RegisterSection, run_id: str, keep_in: Path = BUNDLES) -> Path:
    """The local folder of the bundle of the newest version that belongs to the MLflow run.

    Raises:
        RegistryError: No version belongs to the run, or the store does not answer.
        BundleMismatch: The registry's files are not the bundle that was registered.
    """
    client = open_store(section)
    try:
        found = client.search_model_versions(f"name = '{section.model_name}'")
        versions = [_version(version) for version in found if version.run_id == run_id]
        if not versions:
            raise RegistryError(
                f"the registry at '{section.tracking_uri}' holds no version of '{section.model_name}' that belongs to "
                f"run '{run_id}'. `vigil summary --json` names the last version; MLflow shows the run of each."
            )
        return fetch_bundle(section, max(versions, key=lambda version: version.number), keep_in)
    except store_errors() as error:
        raise RegistryError(f"the MLflow store at '{section.tracking_uri}': {shortened(error)}") from error


def fetch_bundle(section: RegisterSection, version: Version, keep_in: Path = BUNDLES) -> Path:
    """The local folder of a version's bundle; its record carries the digest that was registered.

    Raises:
        BundleMismatch: The registry's files are not the bundle that was registered.
    """
    folder = Path(keep_in) / version.bundle_digest
    if not _is_whole(folder):
        mlflow = import_mlflow()
        uri = f"models:/{section.model_name}/{version.number}"
        flavor = mlflow.models.get_model_info(uri).flavors["python_function"]
        source = f"{uri}/{flavor['artifacts'][_ARTIFACT]['path']}"
        with tempfile.TemporaryDirectory() as scratch, written_aside(folder) as new:
            shutil.copytree(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=scratch), new)
    found = read_record(folder).digest
    if found != version.bundle_digest:
        raise BundleMismatch(
            f"{folder}: version {version.number} of '{section.model_name}' was registered with bundle "
            f"{version.bundle_digest}, its files are bundle {found}. Register the bundle again."
        )
    return folder


def fetch_parent(section: RegisterSection, parent: Parent) -> tuple[Path, Path]:
    """The local folders of a pinned version's bundle and of the sample that was kept with it, both verified.

    Raises:
        RegistryError: The registry does not hold this version, or holds another one under its number.
        BundleMismatch: The registry's files are not what was registered.
    """
    client = open_store(section)
    where = f"start.parent: version {parent.version} of '{section.model_name}' in '{section.tracking_uri}'"
    try:
        version = version_number(client, section.model_name, parent.version)
        for what, found, pinned in (
            ("bundle", version.bundle_digest, parent.bundle),
            ("rehearsal", version.rehearsal_digest, parent.rehearsal),
        ):
            if found != pinned:
                raise RegistryError(
                    f"{where} has {what} {found}, pinned is {pinned}; run `vigil train --from champion`"
                )
        return fetch_bundle(section, version), _fetch_rehearsal(version.run_id, parent.rehearsal)
    except store_errors() as error:
        raise RegistryError(f"{where}: {shortened(error)}") from error


def _fetch_rehearsal(run_id: str, digest: str, keep_in: Path = REHEARSALS) -> Path:
    folder = Path(keep_in) / digest
    if not folder.exists() or digest_folder(folder) != digest:
        mlflow = import_mlflow()
        source = f"{_REHEARSAL}/{digest}"
        with tempfile.TemporaryDirectory() as scratch, written_aside(folder) as new:
            found = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=source, dst_path=scratch)
            shutil.copytree(found, new)
    if (found := digest_folder(folder)) != digest:
        raise BundleMismatch(
            f"{folder}: run {run_id} keeps a rehearsal sample with digest {found}, expected {digest}: its files were "
            f"changed. Train from scratch (`vigil train --from scratch`)."
        )
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        verify_bundle(folder)
    except BundleMismatch as error:
        if folder.exists():
            _log.warning("Downloading again: %s", error)
        return False
    return True


def version_with(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that carries the alias; None where no version does, or the model is not registered."""
    if not names_model(client, name):
        return None
    number = client.get_registered_model(name).aliases.get(alias)
    return None if number is None else version_number(client, name, int(number))


def version_number(client: MlflowClient, name: str, number: int) -> Version:
    """The version of this number."""
    return _version(client.get_model_version(name, str(number)))


def names_model(client: MlflowClient, name: str) -> bool:
    """Whether the registry knows a model of this name."""
    quoted = name.replace("'", "")
    return any(model.name == name for model in client.search_registered_models(f"name = '{quoted}'"))


def _by_digest(client: MlflowClient, name: str, digest: str) -> Version | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    return min((_version(v) for v in found), key=lambda v: v.number, default=None)


def _version(found: ModelVersion) -> Version:
    tags = found.tags
    if missing := {DIGEST_TAG, TEST_TAG, EVALUATION_TAG} - set(tags):
        raise RegistryError(
            f"version {found.version} of '{found.name}' was not registered by Vigil: it lacks the tags "
            f"{sorted(missing)}. Point the alias at another version, or set register.model_name."
        )
    return Version(
        number=int(found.version),
        bundle_digest=tags[DIGEST_TAG],
        test_digest=tags[TEST_TAG],
        run_id=found.run_id or "",
        evaluation=EvaluationSummary.model_validate_json(tags[EVALUATION_TAG]),
        data_digest=tags.get(DATA_TAG),
        rehearsal_digest=tags.get(REHEARSAL_TAG),
        audit=AuditSummary.model_validate_json(tags[AUDIT_TAG]) if AUDIT_TAG in tags else None,
        recalibrated_from=tags.get(RECALIBRATED_TAG),
    )
