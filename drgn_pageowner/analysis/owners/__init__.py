# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records grouped and selected by who allocated them."""
