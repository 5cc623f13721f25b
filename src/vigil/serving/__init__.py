"""Screening images with a bundle; knows nothing of training or of MLflow."""
