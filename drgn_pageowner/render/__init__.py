# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Render results: tables, JSON, CSV, the kernel's own debugfs text. This package never imports drgn.
"""
