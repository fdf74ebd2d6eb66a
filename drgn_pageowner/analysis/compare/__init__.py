# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed between two snapshots."""
