"""Results to text: tables, JSON, CSV, the kernel's own debugfs text. Never imports drgn."""
