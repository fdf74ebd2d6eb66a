# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_pageowner``."""

import sys

from drgn_pageowner.cli import main

sys.exit(main())
