"""Vigil learns what normal images look like and flags what does not belong."""

__version__ = "0.1.0"
