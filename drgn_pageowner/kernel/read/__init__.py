# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builders of model objects, each of which reads one kind."""
