# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of gfp flags for kernels that have no table of these names (v3.19 to v4.5).

The table was added in Linux kernel commit edf14cdbf9a0 ("mm, printk: introduce new format string
for flags") (in v4.6).
"""

from __future__ import annotations

__all__ = ("gfp_flags_before_table",)

# The bits of include/linux/gfp.h that are the same in v3.19 and v4.5.
_SAME = {
    "__GFP_DMA": 0x01,
    "__GFP_HIGHMEM": 0x02,
    "__GFP_DMA32": 0x04,
    "__GFP_HIGH": 0x20,
    "__GFP_IO": 0x40,
    "__GFP_FS": 0x80,
    "__GFP_COLD": 0x100,
    "__GFP_NOWARN": 0x200,
    "__GFP_REPEAT": 0x400,
    "__GFP_NOFAIL": 0x800,
    "__GFP_NORETRY": 0x1000,
    "__GFP_MEMALLOC": 0x2000,
    "__GFP_COMP": 0x4000,
    "__GFP_ZERO": 0x8000,
    "__GFP_NOMEMALLOC": 0x10000,
    "__GFP_HARDWALL": 0x20000,
    "__GFP_THISNODE": 0x40000,
    "__GFP_MOVABLE": 0x08,
    "__GFP_NOTRACK": 0x200000,
    "__GFP_OTHER_NODE": 0x800000,
    "__GFP_WRITE": 0x1000000,
}
# Linux kernel commits 016c13daa5c9 ("mm, page_alloc: use masks and shifts when converting GFP
# flags to migrate types") and d0164adc89f6 ("mm, page_alloc: distinguish between being unable to
# sleep, unwilling to sleep and avoiding waking kswapd") (both in v4.4) changed these.
_BEFORE_4_4 = {
    "__GFP_WAIT": 0x10,
    "__GFP_RECLAIMABLE": 0x80000,
    "__GFP_NOACCOUNT": 0x100000,
    "__GFP_NO_KSWAPD": 0x400000,
}
_SINCE_4_4 = {
    "__GFP_RECLAIMABLE": 0x10,
    "__GFP_ATOMIC": 0x80000,
    "__GFP_ACCOUNT": 0x100000,
    "__GFP_RECLAIM": 0x2400000,
    "__GFP_DIRECT_RECLAIM": 0x400000,
    "__GFP_KSWAPD_RECLAIM": 0x2000000,
}


def gfp_flags_before_table(reclaimable_first: bool) -> list[tuple[int, str]]:
    """
    List ``(mask, name)`` of every gfp flag of a kernel without a table of these names.

    The order is that of the table ``gfpflag_names``, which was added in Linux kernel commit
    edf14cdbf9a0 ("mm, printk: introduce new format string for flags") (in v4.6).

    :param reclaimable_first: Whether ``MIGRATE_RECLAIMABLE`` comes before ``MIGRATE_MOVABLE``, as
        before Linux kernel commit 016c13daa5c9 ("mm, page_alloc: use masks and shifts when
        converting GFP flags to migrate types") (in v4.4). That version changed gfp flags, too.
    """
    bits = {**_SAME, **(_BEFORE_4_4 if reclaimable_first else _SINCE_4_4)}
    reclaim = bits["__GFP_WAIT"] if reclaimable_first else bits["__GFP_RECLAIM"]
    noio, io, fs = reclaim, bits["__GFP_IO"], bits["__GFP_FS"]
    user = noio | io | fs | bits["__GFP_HARDWALL"]
    highuser = user | bits["__GFP_HIGHMEM"]
    atomic = bits["__GFP_HIGH"]
    if not reclaimable_first:
        atomic |= bits["__GFP_ATOMIC"] | bits["__GFP_KSWAPD_RECLAIM"]
    composed = {
        "GFP_HIGHUSER_MOVABLE": highuser | bits["__GFP_MOVABLE"],
        "GFP_HIGHUSER": highuser,
        "GFP_USER": user,
        "GFP_TEMPORARY": noio | io | fs | bits["__GFP_RECLAIMABLE"],
        "GFP_KERNEL": noio | io | fs,
        "GFP_NOFS": noio | io,
        "GFP_ATOMIC": atomic,
        "GFP_NOIO": noio,
    }
    return [(mask, name) for name, mask in {**composed, **bits}.items()]
