"""Says in params.yaml what training starts from. Not a stage: the stages read what is written here.

"The champion" is settled once, to a version and its digests, so that a run means the same tomorrow, in another clone,
and after the next promotion; and so that git and DVC see it as they see every other setting.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from vigil.config import Parent, StartSection, load_params
from vigil.errors import RegistryError
from vigil.files import written_aside
from vigil.stages import layout

_log = logging.getLogger(__name__)
PARAMS = Path("params.yaml")
Start = Literal["champion", "scratch"]


def pin_start(start: Start) -> StartSection:
    """Writes `start.parent` in params.yaml and returns the section; comments and all other keys stay as they are.

    `champion` leaves the parent as it is where the champion learned from the patches in data/patches/train already:
    there is nothing new to learn. So bring the patches up to date first (`dvc repro patch`).

    Raises:
        RegistryError: There is no champion, or no data was kept with it, or the store does not answer.
        ConfigError: params.yaml is missing or breaks a rule.
        DataError: The training patches are missing.
    """
    section = load_params(PARAMS).start
    parent = None if start == "scratch" else _champion(section)
    if parent != section.parent:
        _write(parent)
        name = "scratch" if parent is None else f"version {parent.version}"
        _log.info("%s: start.parent is now %s", PARAMS, name)
    return section.model_copy(update={"parent": parent})


def _champion(section: StartSection) -> Parent | None:
    from vigil.delivery.mlflow_registry import champion
    from vigil.images.shards import PatchShards

    registration = load_params(PARAMS).registration
    found = champion(registration)
    if found is None:
        raise RegistryError(
            f"the registry at '{registration.tracking_uri}' holds no champion of '{registration.model_name}' to start "
            f"from. Train from scratch (`vigil train --from scratch`) and run `vigil promote`."
        )
    if found.data_digest == PatchShards.open(layout.PATCHES["train"]).digest:
        _log.info("the champion, version %d, learned from these very patches: nothing new to learn", found.number)
        return section.parent
    if found.rehearsal_digest is None:
        raise RegistryError(
            f"no data was kept with the champion, version {found.number}, so there is nothing to rehearse or to test "
            f"forgetting on. Train a version from scratch (`vigil train --from scratch`) and promote it first."
        )
    return Parent(version=found.number, bundle=found.bundle_digest, rehearsal=found.rehearsal_digest)


def _write(parent: Parent | None) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    values = yaml.load(PARAMS.read_text())
    values.setdefault("start", {})["parent"] = None if parent is None else parent.model_dump()
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    with written_aside(PARAMS) as new, new.open("w") as file:
        yaml.dump(values, file)
