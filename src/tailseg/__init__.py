"""Long-tailed instance segmentation on PyTorch, around the Gumbel Optimised Loss (ECCV 2022)."""

__version__ = "0.1.0"
