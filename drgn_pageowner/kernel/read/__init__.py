# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builders of the model: each reads one of its objects from a program."""
