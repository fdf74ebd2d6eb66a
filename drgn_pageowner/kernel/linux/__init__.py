# SPDX-License-Identifier: LGPL-2.1-or-later
"""Linux data structures, one file for each kernel concept."""
