# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print page flags as page_owner did before Linux kernel commit 60f30350fd69 ("mm, page_owner:
print migratetype of page and pageblock, symbolic flags") (in v4.6): as letters, and "Fallback"."""

from __future__ import annotations

from collections.abc import Callable

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.records import Snapshot

__all__ = ("fallback_text", "is_fallback", "page_letter")

# In the order in which print_page_owner() had them, from Linux kernel commit 48c96a368579
# ("mm/page_owner: keep track of page owners") (in v3.19) to 60f30350fd69 ("mm, page_owner: print
# migratetype of page and pageblock, symbolic flags") (in v4.6).
_LETTERS = (
    ("K", ("locked",)),
    ("E", ("error",)),
    ("R", ("referenced",)),
    ("U", ("uptodate",)),
    ("D", ("dirty",)),
    ("L", ("lru",)),
    ("A", ("active",)),
    ("S", ("slab",)),
    ("W", ("writeback",)),
    # PageCompound(). Tail pages had a page flag before Linux kernel commit 1d798ca3f164 ("mm: make
    # compound_head() robust") (in v4.4); only head pages have records.
    ("C", ("head", "tail", "compound")),
    ("B", ("swapcache",)),
    ("M", ("mappedtodisk",)),
)


def page_letter(number: int, names: Names) -> Callable[[int], str]:
    """
    Return a function that prints one flag of ``page.flags``.

    :param number: Number of the letter, from 0 on.
    :return: Function from ``page.flags`` to the letter, or a space.
    """
    letter, flags = _LETTERS[number]
    mask = 0
    for name in flags:
        mask |= names.flag_mask(name)
    return lambda value: letter if value & mask else " "


def is_fallback(rows: Snapshot) -> Array:
    """Find pages in a pageblock of another migratetype than their own: ``bool``, a row each."""
    if "fallback" in rows:
        return rows["fallback"]
    result: Array = rows["migratetype"] != rows["pageblock_migratetype"]
    return result


def fallback_text(fallback: bool) -> str:
    """Print :func:`is_fallback` of a page."""
    return "Fallback" if fallback else "        "
