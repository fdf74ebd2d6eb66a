# SPDX-License-Identifier: LGPL-2.1-or-later
"""Account for every page: its class, and its owner."""
