# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Print kernel memory whose allocating tasks have exited, by stack; this may include old leaks.

    drgn -c vmcore contrib/orphans.py [NUMBER OF STACKS]
"""

import sys

import numpy as np
from drgn.helpers.linux.pid import for_each_task
from tabulate import tabulate

from drgn_pageowner import snapshot
from drgn_pageowner.analysis.owners.group import top

records = snapshot(prog, columns=("pid", "handle", "migratetype", "ts_nsec"))
if "pid" not in records:
    sys.exit("this kernel's page_owner does not record who allocated (it does since v5.11)")
alive = np.array([int(task.pid) for task in for_each_task(prog)], np.int32)
movable = records.names.migratetypes.index("Movable")
orphaned = ~np.isin(records["pid"], alive) & (records["migratetype"] != movable)
result = top(records.select(orphaned), ["allocator"], limit=int([*sys.argv, "20"][1]))
print(f"{result.pages} pages in {result.allocations} allocations by tasks that are gone")
rows = [(g.pages, g.allocations, g.key["allocator"], g.handle) for g in result.groups]
print(tabulate(rows, ("pages", "allocations", "allocator", "handle of its largest stack")))
