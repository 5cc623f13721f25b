"""Where the real data sets lie that some tests read; they are never part of the project.

`VIGIL_SHARED_DATA` names the folder; without it, `shared/data` beside the checkout. A test that needs one is skipped
with the folder it looked in where the set is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("VIGIL_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test where the data set's folder `name` is absent."""
    folder = REAL / name
    return pytest.mark.skipif(not folder.is_dir(), reason=f"{folder} is absent; set VIGIL_SHARED_DATA to the folder")
