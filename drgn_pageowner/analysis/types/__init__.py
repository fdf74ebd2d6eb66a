# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of slab objects: inferred from pointers, and summed up."""
