# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reachability, leaks, and the paths that keep memory alive."""
