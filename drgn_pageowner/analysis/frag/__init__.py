# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fragmentation: blocks, free lists, contiguity, allocation checks."""
