"""The checks of handed cases, by the folders that hold them; `benchmarks/cases.py` runs them."""
