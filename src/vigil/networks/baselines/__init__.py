"""The systems that the paper compares itself with, one file each, from their own published descriptions.

Widths come from the model section, so that a benchmark can give all systems the same budget; `attention`,
`spectral_norm`, `outer_rows_without_skips` and what is beyond the paper belong to `dense_skip_gan` alone. How many
parameters each has then: docs/architecture.md.
"""
