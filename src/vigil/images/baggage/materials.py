"""The materials of a simulated bag and how strongly each attenuates X-rays at the scanner's two energies.

The coefficients are effective values for the spectra of a 140 kV dual-energy scanner after filtering and beam
hardening: water-like matter (organic), aluminium and glass (inorganic), steel and copper (metal). What matters for the
picture is their size and the ratio low / high, which grows with the atomic number and chooses the hue.
"""

from __future__ import annotations

from typing import Final

import numpy as np

ORGANIC: Final = 0
INORGANIC: Final = 1
METAL: Final = 2
MATERIALS: Final = 3

LOW, HIGH = 0, 1
ATTENUATION_PER_CM: Final = np.array([[0.21, 0.66, 4.5], [0.18, 0.46, 2.0]], dtype=np.float32)
"""mu in 1/cm, [energy (low, high), material (organic, inorganic, metal)]."""
