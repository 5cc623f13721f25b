"""Calibration patches with pseudo-anomalies stamped in, for the stages that choose or weigh without real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vigil.config import PseudoAnomalySection
from vigil.seeding import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def stamped_copies(
    patches: NDArray[np.uint8], section: PseudoAnomalySection, seed: int, purpose: str
) -> NDArray[np.uint8]:
    """Each of the patches [N, P, P, C] with at least one pseudo-anomaly; a function of the arguments alone.

    Args:
        patches: Calibration patches; what is stamped in is taken from among them.
        section: What is stamped in; none is left clean, whatever it says.
        seed: Of the pair.
        purpose: Apart for each stage, so that what one of them chose on is not what another fits on.
    """
    import numpy as np

    from vigil.training.pseudo_anomalies import colour_table, pseudo_anomalies

    stamps = section.model_copy(update={"clean_fraction": 0.0})
    donors = np.roll(patches, len(patches) // 2, axis=0)
    numbers = np.arange(len(patches), dtype=np.int64)
    own_seed = derive_seed(seed, purpose)
    stamped, _ = pseudo_anomalies(patches, donors, stamps, colour_table(patches), seed=own_seed, numbers=numbers)
    return stamped
