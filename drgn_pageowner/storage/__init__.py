# SPDX-License-Identifier: LGPL-2.1-or-later
"""Save snapshots in files, and read them back without the dump and without drgn."""
