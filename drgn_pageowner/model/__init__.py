# SPDX-License-Identifier: LGPL-2.1-or-later
"""The data model: NumPy arrays and dataclasses without any drgn objects."""
