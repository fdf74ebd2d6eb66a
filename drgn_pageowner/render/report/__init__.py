# SPDX-License-Identifier: LGPL-2.1-or-later
"""A post-mortem as one HTML page, as Markdown, as JSON."""
