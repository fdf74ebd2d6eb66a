# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results to text: tables, JSON, CSV, the kernel's own debugfs text. Never imports drgn."""
