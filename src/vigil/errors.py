"""Every error that Vigil raises on purpose.

    VigilError                  exit code 1
      ConfigError               3   a params file or an option breaks a rule
      DataError                 4   an image, a mask, a table or a folder breaks a rule
        ValidationFailed        4   a data contract (Great Expectations) is broken
      CheckpointError           5   a checkpoint or a pair folder is damaged or of another run
      TrainingDiverged          6   a loss or a gradient norm is not finite
      CalibrationError          7   the calibration data cannot support what was asked
      BundleMismatch            8   a bundle is damaged, incomplete, or of another version
      RegistryError             9   the model registry does not hold what was asked for
      ScoreNotFinite           10   a score or an anomaly map is NaN or infinite
      LeakFound                 1   the audit proves that a result depends on what it must not know
      PromotionRefused          2   the challenger is not better than the champion

A message says which rule broke, where, what was expected and what was found, and what to do next.
"""

from __future__ import annotations


class VigilError(Exception):
    """Base of all errors that Vigil raises on purpose; `exit_code` is what the CLI ends with."""

    exit_code = 1


class ConfigError(VigilError):
    """A params file or a command-line option breaks a rule."""

    exit_code = 3


class DataError(VigilError):
    """An image, a mask, a table or a data folder breaks a rule."""

    exit_code = 4


class ValidationFailed(DataError):
    """A data contract is broken; the message lists the expectation and the files."""


class CheckpointError(VigilError):
    """A checkpoint or a pair folder is damaged, incomplete, or belongs to another run."""

    exit_code = 5


class TrainingDiverged(VigilError):
    """A loss or a gradient norm is not finite; raised before the optimiser moves."""

    exit_code = 6


class CalibrationError(VigilError):
    """The calibration data cannot support the threshold or the scale that was asked for."""

    exit_code = 7


class BundleMismatch(VigilError):
    """A bundle is damaged, incomplete, or written by an incompatible version."""

    exit_code = 8


class RegistryError(VigilError):
    """The model registry does not hold the version or the alias that was asked for."""

    exit_code = 9


class ScoreNotFinite(VigilError):
    """A score or an anomaly map is NaN or infinite; it must never pass as "normal"."""

    exit_code = 10


class PromotionRefused(VigilError):
    """The challenger may not replace the champion; the message lists every reason."""

    exit_code = 2


class LeakFound(VigilError):
    """The leakage audit proves that scores, splits or choices depend on what they must not know."""
