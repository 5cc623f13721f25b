"""What the calibrated pair reaches on the test split, with intervals and baselines; chooses nothing."""
