# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stand-in that hides an installed drgn: `make quick` puts this directory into PYTHONPATH."""

raise ModuleNotFoundError("drgn is hidden from this process", name="drgn")
