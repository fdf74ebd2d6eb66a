# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure functions from the model to results. This package never imports drgn."""
