"""Snapshots in files: what was decoded, kept, and read back without the dump and without drgn."""
