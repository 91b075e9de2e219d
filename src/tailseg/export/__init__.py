"""Writes a trained detector for runtimes without tailseg, and compares the file with torch."""
