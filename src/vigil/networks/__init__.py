"""The generator/discriminator pair of arXiv 2211.13808 and its file format; no optimisers, no losses."""
