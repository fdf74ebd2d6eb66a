# SPDX-License-Identifier: LGPL-2.1-or-later
"""Readers that build the objects of the model, one kind in each file."""
