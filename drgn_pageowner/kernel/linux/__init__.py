# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Linux keeps in memory, one file per kernel concept."""
