# SPDX-License-Identifier: LGPL-2.1-or-later
"""Knowledge of the kernel's memory; the only package that imports drgn."""
