"""Training: the loop, the optimizer, checkpoints, the log."""
