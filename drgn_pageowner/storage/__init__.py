# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots in files, which are read back without the dump and without drgn."""
