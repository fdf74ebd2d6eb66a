"""Records grouped and selected by who allocated them."""
