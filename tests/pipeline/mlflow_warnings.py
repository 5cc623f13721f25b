"""Warnings of MLflow's own code, which it would be ours to mend only by forking it; every other one is an error."""

from __future__ import annotations

import pytest

MLFLOW_WARNINGS = [
    # SQLAlchemy 2.1 on how MLflow's tables are declared.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
