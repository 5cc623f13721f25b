"""The training steps of the systems that the paper compares itself with, one file each.

A step moves every player of its system once. Batch normalisation is in training mode throughout, as published.
"""
