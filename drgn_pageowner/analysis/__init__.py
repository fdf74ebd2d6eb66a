# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure functions over snapshots: select, group, account. Never imports drgn."""
