"""raw: generate the embedded data set, or check that the imported one is there."""

from __future__ import annotations

from vigil.config import DataSection


def run(data: DataSection) -> None:
    """Leaves a complete raw data set at `data.root`."""
    from vigil.images.raw import prepare_raw

    prepare_raw(data)
