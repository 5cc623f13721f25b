"""From components to a score, from scores to a scale and a threshold; sees calibration data only.

Owns the fit and the one comparison `score > threshold`.
"""
