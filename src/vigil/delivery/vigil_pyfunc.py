"""The registered model's code: MLflow runs this file when a version is loaded ("models from code").

Input: a column `image` of encoded images (PNG, JPEG, ...) as bytes, or as base64 text. Output: one row per image with
verdict NORMAL, ANOMALOUS or REJECTED, score, scaled score, threshold and reason. A bad image is REJECTED, never an
error.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd

from vigil.delivery.bundle import Bundle, load_bundle
from vigil.delivery.verdict import Judgement, judge_encoded
from vigil.errors import DataError

_SHOWN = 80


class VigilModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A bundle behind MLflow's pyfunc interface."""

    bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Opens and verifies the bundle. MLflow finds the parameter by its name, `context`."""
        self.bundle = load_bundle(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """One row per image, in the order of the input.

        Raises:
            DataError: The input is not a table with a column `image`.
        """
        if not isinstance(model_input, pd.DataFrame) or "image" not in model_input:
            found = list(model_input) if isinstance(model_input, pd.DataFrame) else type(model_input).__name__
            raise DataError(
                f"expected a table with a column 'image' of encoded images (bytes or base64 text), "
                f"found {str(found)[:_SHOWN]}"
            )
        judged = judge_encoded(self.bundle, map(_encoded, model_input["image"]), device="auto")
        rows = [[getattr(j, c) for c in Judgement.COLUMNS] for j in judged]
        # As objects, so that the score of a REJECTED image stays None: as a number it would be NaN, which is no JSON.
        return pd.DataFrame(rows, columns=Judgement.COLUMNS, dtype=object)


def _encoded(value: Any) -> bytes:
    """The image's bytes; what is neither bytes nor base64 becomes bytes that no image starts with."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return b""


mlflow.models.set_model(VigilModel())
