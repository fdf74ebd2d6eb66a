"""What Linux keeps in memory, one file per kernel concept."""
