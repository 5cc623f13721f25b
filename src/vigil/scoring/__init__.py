"""From a pair and patches to patch components, anomaly maps and image scores; imports no training code."""
