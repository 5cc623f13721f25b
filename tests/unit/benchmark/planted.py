"""Records of cells as if they had been made, with numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vigil.benchmark.cells import Cell, Record

SPENT = {
    "images_seen": 4096,
    "train_patches": 3000,
    "epochs": 4096 / 3000,
    "batch_size": 32,
    "width": 8,
    "patch_px": 32,
    "image_px": 32,
    "precision": "32-true",
    "latent_search_steps": None,
    "hardware": "a processor, 1 thread(s) of 2",
    "torch": "2",
    "code": "abc",
    "seconds": {"train": 90.0, "score_ms_per_patch": 12.5},
}


def measured(auroc: float | None, **more: Any) -> dict[str, Any]:
    """What a cell measured: an AUROC, trivial features of .6 (Laplacian) and .7, untrained features of .65."""
    return {
        "auroc": None if auroc is None else {"value": auroc, "low": auroc - 0.1, "high": auroc + 0.1},
        "recall": {"value": 0.25},
        "fpr": {"value": 0.05},
        "images": {"normal": 400, "anomalous": 300, "groups": 700},
        "per_kind": {},
        "trivial": {"laplacian_energy": 0.6, "brightness": 0.7, "colourfulness": None},
        "untrained": 0.65,
        "patch_auroc_paper": None,
        "mask_cropped": None,
        "released": None,
        "epochs_to_converge": None,
        "recall_at_5_percent_fpr": 0.4,
        "pixel_auroc": None,
        "aupro": None,
        "box_hit_rate": None,
        "patch_auroc_inside": None,
        "leaks": [],
        "shortcuts": {},
        **more,
    }


def finished(cell: Cell, auroc: float | None, **more: Any) -> Record:
    """The record of a finished cell."""
    return Record(
        cell=asdict(cell), settings="s", status="finished", measured=measured(auroc, **more), spent=dict(SPENT)
    )


def failed(cell: Cell, error: str) -> Record:
    """The record of a failed cell."""
    return Record(cell=asdict(cell), settings="s", status="failed", error=error)
