# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text files printed by kernels, which commands can read instead of a dump."""
