# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the features of a kernel that record owners: page_owner, allocation tags, slab debugging."""

from __future__ import annotations

from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.alloc_tag import profiling
from drgn_pageowner.kernel.linux.kasan_track import alloc_meta_dtype, alloc_meta_offset
from drgn_pageowner.kernel.linux.page_ext import page_owner_state
from drgn_pageowner.kernel.linux.slab import slab_caches
from drgn_pageowner.kernel.linux.slab_track import keeps_tracks
from drgn_pageowner.model.info import OwnerSource

__all__ = ("read_owner_sources",)

_NAMED = 3
_OF_PAGES = (
    "who allocated each page: stack, and since v5.11 task and time (top, list, leaks, diff, page)"
)
_OF_TAGS = (
    "which line of source allocated each page and slab object, and how much it has (allocinfo; "
    "top, list, diff --by tag; page; leaks --slab)"
)
_OF_OBJECTS = "who allocated each of their objects: stack and task (top --slab, leaks --slab)"


def read_owner_sources(kernel: Kernel) -> list[OwnerSource]:
    """List all features that record owners, whether or not they are enabled in this kernel."""
    state = page_owner_state(kernel)
    words = {"absent": "not compiled in", "off": "off", "on": "on"}
    tracked, with_kasan, complete = _caches(kernel)
    off = "off (slub_debug=U keeps it)", "no stacks of slab objects"
    if not complete:
        off = "unknown: not all slab caches can be read", "unknown: not all slab caches can be read"
    return [
        OwnerSource("page_owner", state == "on", words[state], _OF_PAGES if state == "on" else ""),
        _tags(kernel),
        _objects("SLUB user tracking", tracked, off[0]),
        _objects("KASAN", with_kasan, off[1]),
    ]


def _tags(kernel: Kernel) -> OwnerSource:
    found = profiling(kernel)
    words = {
        "absent": "not compiled in (CONFIG_MEM_ALLOC_PROFILING, v6.10)",
        "never": "off for good (needs sysctl.vm.mem_profiling=1)",
        "off": "switched off now",
        "on": "on",
    }
    state = words[found.state] + (", compressed" if found.compressed else "")
    known = found.state in ("on", "off")
    return OwnerSource("allocation tags", known, state, _OF_TAGS if known else "")


def _objects(name: str, caches: list[str], off: str) -> OwnerSource:
    if not caches:
        return OwnerSource(name, False, off, "")
    more = f" and {len(caches) - _NAMED} more" if len(caches) > _NAMED else ""
    return OwnerSource(name, True, f"of {', '.join(caches[:_NAMED])}{more}", _OF_OBJECTS)


def _caches(kernel: Kernel) -> tuple[list[str], list[str], bool]:
    """
    List the slab caches with user tracking, and those whose objects have a stack from KASAN.

    :return: Names of the caches with user tracking; names of those with KASAN's stacks; and whether
        all caches could be read.
    """
    tracked: list[str] = []
    with_kasan: list[str] = []
    problems: list[str] = []
    # Only generic KASAN stores the stack next to each object.
    kasan = alloc_meta_dtype(kernel) is not None
    for cache in slab_caches(kernel, problems):
        try:
            if keeps_tracks(kernel, cache):
                tracked.append(name_of(cache.name))
            if kasan and alloc_meta_offset(cache):
                with_kasan.append(name_of(cache.name))
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"the slab cache at {int(cache):#x} is damaged ({error})")
    kernel.losses += problems
    return tracked, with_kasan, not problems
