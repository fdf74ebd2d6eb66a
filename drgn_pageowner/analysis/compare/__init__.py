# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare two snapshots."""
