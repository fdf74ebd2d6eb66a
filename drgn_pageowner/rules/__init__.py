# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known causes: rules in files, and the verdicts of those that match."""
