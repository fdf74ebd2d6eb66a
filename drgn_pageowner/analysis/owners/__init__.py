# SPDX-License-Identifier: LGPL-2.1-or-later
"""Select and group records by their properties, above all by who allocated them."""
