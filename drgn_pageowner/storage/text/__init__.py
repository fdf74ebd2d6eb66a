# SPDX-License-Identifier: LGPL-2.1-or-later
"""Texts that kernels print of their memory, read as what commands take instead of a dump."""
