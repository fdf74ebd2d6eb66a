# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the layout pack of a kernel: its types, variables and symbols."""
