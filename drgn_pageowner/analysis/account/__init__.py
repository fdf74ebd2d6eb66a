"""What every page is used for."""
