# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out whether page_owner is on, and where its records are in ``struct page_ext``."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.bulk import enumerators, find_object, find_type, has_member
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.sections import page_ext_stride

__all__ = ("PageExtLayout", "page_ext_layout", "page_owner_state")


@dataclass(frozen=True)
class PageExtLayout:
    """Layout of one ``struct page_ext`` entry."""

    stride: int
    """Distance between two entries, in bytes."""
    owner_offset: int
    """Offset of the record in an entry, in bytes."""
    owner_type: str
    """Name of the C structure with the members of a record."""
    owner_bit: int
    """Mask of PAGE_EXT_OWNER in ``page_ext.flags``, which is set if the entry has a record."""
    allocated_bit: int
    """Mask of PAGE_EXT_OWNER_ALLOCATED in ``page_ext.flags``, which is set if the page is
    allocated."""
    tails: bool
    """Whether every page of an allocation has a record, not only the first one."""


@once
def page_owner_state(kernel: Kernel) -> str:
    """Get the state of page_owner: ``"absent"`` (not compiled in), ``"off"`` or ``"on"``."""
    if find_object(kernel.prog, "page_owner_ops") is None:
        return "absent"
    inited = find_object(kernel.prog, "page_owner_inited")
    if inited is None:
        return "absent"
    # A bool in v4.4; a static key in v4.6, since the Linux kernel commit titled "mm, page_owner:
    # convert page_owner_inited to static key".
    enabled = inited.key.enabled.counter if has_member(inited.type_, "key") else inited
    try:
        return "on" if enabled else "off"
    except FaultError:
        # The variable is not in the dump. If page_owner was off, page_ext_layout() will report it.
        return "on"


@once
def page_ext_layout(kernel: Kernel) -> PageExtLayout:
    """
    Get the layout of this kernel's page_ext entries.

    :raises PageOwnerError: if this kernel has no page_owner, page_owner is off, or the layout is
        impossible
    """
    state = page_owner_state(kernel)
    if state in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[state])
    owner_type = find_type(kernel.prog, "struct page_owner")
    if owner_type is None:
        # Records are in struct page_ext itself until Linux kernel commit 9300d8dfd287
        # ("mm/page_owner: don't define fields on struct page_ext by hard-coding") (in v4.9).
        offset, type_name = 0, "struct page_ext"
    else:
        offset, type_name = _owner_offset(kernel), "struct page_owner"
    flags = enumerators(kernel.prog, "enum page_ext_flags")
    owner = 1 << flags["PAGE_EXT_OWNER"]
    # Linux kernel commit 37389167a281 ("mm, page_owner: keep owner info when freeing the page") (in
    # v5.4) added PAGE_EXT_OWNER_ACTIVE, soon renamed; before, freeing a page invalidated its
    # record. In the same version, 7e2f2a0cd17c ("mm, page_owner: record page owner for each
    # subpage") gave every page of an allocation a record; before, only the first page had one.
    for name in ("PAGE_EXT_OWNER_ALLOCATED", "PAGE_EXT_OWNER_ACTIVE"):
        if name in flags:
            allocated = 1 << flags[name]
            break
    else:
        allocated = owner
    stride = page_ext_stride(kernel)
    _check(kernel, offset, type_name, stride)
    return PageExtLayout(stride, offset, type_name, owner, allocated, tails=allocated != owner)


def _owner_offset(kernel: Kernel) -> int:
    try:
        return int(kernel.prog["page_owner_ops"].offset)
    except FaultError as fault:
        raise PageOwnerError(
            f"cannot read page_owner_ops ({fault}): the dump is damaged or cut off, and records "
            "cannot be found"
        ) from fault


def _check(kernel: Kernel, offset: int, type_name: str, stride: int) -> None:
    """
    Check that the location of the record in a page_ext entry is possible.

    :param offset: Offset of the record in an entry, in bytes.
    :param type_name: Name of the C structure with the members of a record.
    :param stride: Distance between two entries, in bytes.
    :raises PageOwnerError: if the record would not be inside the entry
    """
    size = int(kernel.prog.type(type_name).size)
    first = 0 if type_name == "struct page_ext" else int(kernel.prog.type("struct page_ext").size)
    if not (first <= offset and offset + size <= stride):
        known = stride or "missing, or far too large,"
        raise PageOwnerError(
            f"page_ext_size is {known} and page_owner_ops.offset {offset}, where no record of "
            f"{size} bytes can be: the dump is damaged there, and records cannot be found"
        )
