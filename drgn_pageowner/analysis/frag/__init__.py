"""Fragmentation: blocks, free lists, contiguity, allocation checks."""
