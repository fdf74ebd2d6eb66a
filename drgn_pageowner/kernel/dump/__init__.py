# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the bytes of a dump or a running kernel."""
