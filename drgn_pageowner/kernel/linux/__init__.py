# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decode data structures of Linux. There is one file for each kernel concept."""
