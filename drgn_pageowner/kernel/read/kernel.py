# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read :class:`~drgn_pageowner.model.kernel.Facts`: version, memory, clock, zones."""

from __future__ import annotations

from drgn import ProgramFlags

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page_ext import page_owner_state
from drgn_pageowner.kernel.linux.printk import local_clock_ns
from drgn_pageowner.kernel.linux.sections import memory_model, pfn_limits
from drgn_pageowner.kernel.linux.zones import find_zones, max_page_order, pageblock_order
from drgn_pageowner.model.kernel import Facts, Zone

__all__ = ("read_facts",)


def read_facts(kernel: Kernel) -> Facts:
    """
    Read the facts about the kernel as a whole.

    :raises LookupError: if the debugging symbols are not those of a kernel
    :raises FaultError: if the dump lacks the kernel's own data
    """
    platform = kernel.prog.platform
    assert platform is not None
    contents = kernel.contents
    problems: list[str] = contents.problems() if contents is not None else []
    min_low_pfn = max_pfn = 0
    zones: tuple[Zone, ...] = ()
    try:
        min_low_pfn, max_pfn = pfn_limits(kernel, problems)
        zones = find_zones(kernel, problems)
    except PageOwnerError as error:
        # Continue without PFN limits and zones; the other facts still describe the machine.
        problems.append(str(error))
    facts = Facts(
        release=name_of(kernel.prog["UTS_RELEASE"]),
        arch=platform.arch.name.lower(),
        page_size=kernel.page_size,
        max_page_order=max_page_order(kernel),
        pageblock_order=pageblock_order(kernel),
        min_low_pfn=min_low_pfn,
        max_pfn=max_pfn,
        memory_model=memory_model(kernel),
        live=bool(kernel.prog.flags & ProgramFlags.IS_LIVE),
        zones=zones,
        problems=problems,
        page_owner=page_owner_state(kernel),
    )
    facts.now_ns = local_clock_ns(kernel)
    try:
        names = kernel.prog["init_uts_ns"].name
        facts.version, facts.hostname = name_of(names.version), name_of(names.nodename)
    except DAMAGE as error:
        unless_mistaken(error)
        problems.append("init_uts_ns cannot be read: version and host name are unknown")
    return facts
