"""The embedded data set: simulated dual-energy X-ray scans of bags, with and without threats.

Thickness maps of materials overlap, attenuation multiplies along the ray at two energies, and the ratio of the log
attenuations chooses the hue (orange organic, green mixed, blue metal).
"""

from vigil.images.baggage.bag import Box, SimulatedScan, simulate_bag
from vigil.images.baggage.dataset import write_baggage
from vigil.images.baggage.threats import KINDS

__all__ = ["KINDS", "Box", "SimulatedScan", "simulate_bag", "write_baggage"]
