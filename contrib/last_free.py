# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Print who freed a page last, and who owns it now, to debug a use-after-free of a page.

    drgn -c vmcore contrib/last_free.py 0xffff888003a41000
"""

import sys

from drgn import Object
from drgn.helpers.linux.mm import pfn_to_page, virt_to_pfn

from drgn_pageowner import page_owner, page_owner_free_stack, page_owner_stack

if len(sys.argv) != 2:
    sys.exit("usage: drgn -c CORE contrib/last_free.py ADDRESS")
address = int(sys.argv[1], 16)
pfn = int(virt_to_pfn(Object(prog, "void *", value=address)))
page = pfn_to_page(prog, pfn)
owner = page_owner(page)
print(f"{address:#x} is in pfn {pfn:#x}")
if not owner:
    sys.exit("page_owner never saw it allocated")
for title, stack in (
    ("allocated last by", page_owner_stack(page)),
    ("freed last by", page_owner_free_stack(page)),
):
    print(f"{title}:")
    print(stack if stack is not None else "  nobody that page_owner knows of")
