# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every page is used for."""
