# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_pageowner``."""

import sys

try:
    from drgn_pageowner.cli import main
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(main())
