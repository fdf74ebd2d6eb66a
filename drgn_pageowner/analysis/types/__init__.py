# SPDX-License-Identifier: LGPL-2.1-or-later
"""The types of what the kernel allocated: inferred from pointers, and summed up."""
