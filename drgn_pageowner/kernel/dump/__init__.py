# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the bytes of a dump or a running kernel are read."""
