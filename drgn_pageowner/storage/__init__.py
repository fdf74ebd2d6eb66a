# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots in files: what was decoded, kept, and read back without the dump and without drgn."""
