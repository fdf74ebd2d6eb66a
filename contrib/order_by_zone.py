# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Print the number of pages in allocations of each order, for each zone.

    drgn -c vmcore contrib/order_by_zone.py
"""

import numpy as np
from tabulate import tabulate

from drgn_pageowner import snapshot

records = snapshot(prog, columns=("order", "zone", "node"))
highest = int(records["order"].max(initial=0))
rows = []
for zone in records.facts.zones:
    here = (records["zone"] == zone.type) & (records["node"] == zone.node)
    weights = records.pages[here]
    pages = np.bincount(records["order"][here], weights, highest + 1).astype(int)
    rows.append((zone.node, zone.name, *pages.tolist(), int(weights.sum())))
print(tabulate(rows, ("node", "zone", *(f"order {n}" for n in range(highest + 1)), "pages")))
