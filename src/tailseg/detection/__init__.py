"""Runs a detector on a whole data set, and calibrates its scores after training."""
