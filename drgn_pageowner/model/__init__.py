# SPDX-License-Identifier: LGPL-2.1-or-later
"""The data room: NumPy arrays and dataclasses that hold no drgn object."""
