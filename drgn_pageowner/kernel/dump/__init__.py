# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open dumps and running kernels, and read their memory."""
