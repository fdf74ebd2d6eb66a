"""``python -m drgn_pageowner``."""

import sys

from drgn_pageowner.cli import main

sys.exit(main())
