"""How the bytes of a dump or a running kernel are read."""
