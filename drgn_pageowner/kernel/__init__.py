# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the kernel's data structures; the only package that imports drgn."""
