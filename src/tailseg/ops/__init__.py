"""Tensor operations of a two-stage detector; they know nothing of models, losses or data sets."""
