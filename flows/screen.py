"""Screens a folder of images with the champion: the same function as `vigil screen`, from the Prefect UI."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from vigil.config import load_params
from vigil.errors import DataError


@flow(name="screen", validate_parameters=True)
def screen(
    folder: str,
    out: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    params: str = "params.yaml",
) -> State[Any]:
    """Gives each image below a folder a verdict, with a table of all of them as the run's artifact.

    Args:
        folder: An image, or a folder of images on the machine that serves this flow.
        out: Folder for heat maps; none are kept without it.
        device: Where the networks run.
        params: The project's params file; it names the registry.

    Returns:
        `Completed`, or `Warned` where the images do not look like those of calibration (a changed display).
    """
    from vigil.delivery.bundle import load_bundle
    from vigil.delivery.mlflow_registry import load_champion_bundle
    from vigil.images.appearance import Look, warning_of
    from vigil.serving.screening import appearance_shifts
    from vigil.serving.screening import screen as screen_images

    log = get_run_logger()
    bundle = load_bundle(load_champion_bundle(load_params(Path(params)).registration))
    rows: list[dict[str, Any]] = []
    looks: list[Look] = []
    for result in screen_images(bundle, [Path(folder)], device=device, heat_map_folder=Path(out) if out else None):
        log.info("%s %s %s", result.verdict, result.path, result.reason or f"score {result.score:.6g}")
        rows.append(result.as_json())
        if result.appearance is not None:
            looks.append(result.appearance)
    if not rows:
        raise DataError(f"{folder}: no images found; expected an image file or a folder of images")
    # What a person must look at stands first.
    order = {"ANOMALOUS": 0, "REJECTED": 1, "NORMAL": 2}
    rows.sort(key=lambda row: (order.get(row["verdict"], 3), -(row.get("score") or 0.0)))
    counts = Counter(row["verdict"] for row in rows)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
    warning = warning_of(appearance_shifts(bundle, looks), len(looks))
    if warning:
        log.warning("%s", warning)
    described = f"{len(rows)} images in {folder}: {said}" + (f". Warning: {warning}" if warning else "")
    create_table_artifact(key="screening", table=rows, description=described)
    if warning:  # a name of its own, so that an automation of Prefect can wait for it
        return Completed(name="Warned", message=f"{len(rows)} images: {said}; they look unlike calibration's")
    return Completed(message=f"{len(rows)} images: {said}")
