"""Pure functions over snapshots: select, group, account. Never imports drgn."""
