# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many dumps: find them and their symbols, decode them on many machines, and query the results."""
