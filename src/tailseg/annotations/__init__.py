"""Annotation files: reading, checking, caching, splitting and summarizing them; without torch."""
