# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decode the records in ``struct page_owner``, one section at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from drgn import FaultError

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import enumerators, find_object, has_member, struct_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.dump.live import Changes, read_rows
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import Section, pfn_limits
from drgn_pageowner.kernel.linux.trace import TRACE_MEMBERS
from drgn_pageowner.model.arrays import Array, runs
from drgn_pageowner.model.columns import STORED, Form, Origin, columns_of

__all__ = (
    "OWNER_MEMBERS",
    "OwnerCounts",
    "gfp_migratetype",
    "owner_dtype",
    "read_owner_records",
    "reclaimable_before_movable",
)

# ___GFP_RECLAIMABLE and ___GFP_MOVABLE are two bits of gfp_mask: GFP_MOVABLE_SHIFT of
# include/linux/gfp.h.
_GFP_MOVABLE_SHIFT = 3
# ___GFP_RECLAIMABLE before Linux kernel commit 016c13daa5c9 ("mm, page_alloc: use masks and shifts
# when converting GFP flags to migrate types") (in v4.4).
_OLD_GFP_RECLAIMABLE_SHIFT = 19

_ORDERS = 48
"""The number of orders that can be possible at all; the largest blocks have ``2^10`` pages."""
_BEYOND = (np.int64(1) << np.arange(_ORDERS, dtype=np.int64)) - 1
"""``2^order - 1`` of each order: what is added to the first PFN of a block to get its last."""

OWNER_MEMBERS = columns_of(Origin.MEMBER)
"""Names of the members of ``struct page_owner``, not all of which exist in every kernel."""


@dataclass
class OwnerCounts:
    """Accumulates numbers of base pages while page_ext is read."""

    covered: int = 0
    """Number of pages with a ``struct page_ext``."""
    uncovered: int = 0
    """Number of pages of present sections without a ``struct page_ext``."""
    allocated: int = 0
    """Number of pages that are allocated according to their records, including tail pages."""
    freed: int = 0
    """Number of pages that were freed according to their records, including tail pages."""
    missing: int = 0
    """Number of pages whose ``struct page_ext`` is not in the dump."""
    bad_order: int = 0
    """Number of records with an order that no allocation can have."""
    missing_ranges: list[tuple[int, int]] = field(default_factory=list)
    """PFN ranges ``(first, end)`` of the pages in :attr:`missing`."""

    def add(self, other: OwnerCounts) -> None:
        """Add the numbers of later pages."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@once
def owner_dtype(kernel: Kernel) -> np.dtype[np.void]:
    """
    Get a dtype of one ``struct page_ext`` entry, with ``flags`` and the members of the record.

    :raises PageOwnerError: if this kernel has no page_owner records, or their layout is unknown
    """
    layout, prog = page_ext_layout(kernel), kernel.prog
    flags = struct_dtype(prog, prog.type("struct page_ext"), ("flags",), itemsize=layout.stride)
    type_ = prog.type(layout.owner_type)
    members = {name: name for name in OWNER_MEMBERS}
    for name, paths in TRACE_MEMBERS.items():
        for path in paths:
            if has_member(type_, path):
                members[name] = path
    record = struct_dtype(prog, type_, members, base=layout.owner_offset, itemsize=layout.stride)
    fields = {**dict(flags.fields or {}), **dict(record.fields or {})}
    missing = {"flags", "order", "gfp_mask"} - set(fields)
    if missing:
        raise PageOwnerError(
            "struct page_owner of this kernel has no "
            + ", ".join(sorted(missing))
            + ": its layout is not known"
        )
    return np.dtype(
        {
            "names": list(fields),
            "formats": [value[0] for value in fields.values()],
            "offsets": [value[1] for value in fields.values()],
            "itemsize": layout.stride,
        }
    )


def read_owner_records(
    kernel: Kernel,
    section: Section,
    columns: frozenset[str],
    counts: OwnerCounts,
    changes: Changes,
    *,
    freed: bool,
) -> dict[str, Array]:
    """
    Decode the records of one section.

    One record stands for a whole allocation of ``2^order`` base pages. If all its pages have a
    record, only the record at the PFN that is aligned to the order is returned, as in the kernel's
    ``read_page_owner()``.

    :param columns: Names of the columns to return, from :data:`OWNER_MEMBERS` and
        :data:`~drgn_pageowner.kernel.linux.trace.TRACE_MEMBERS`.
    :param counts: The numbers of pages of the section are added to this.
    :param changes: The numbers of records that a running kernel changed are added to this.
    :param freed: Whether to return records of freed pages, too.
    :return: ``pfn`` (``int64``), ``allocated`` (``bool``) and *columns*, each of shape ``(n,)``.
    """
    layout, (_, max_pfn) = page_ext_layout(kernel), pfn_limits(kernel)
    pages = min(section.end_pfn, max_pfn) - section.start_pfn
    if pages <= 0:
        return {}
    if not section.page_ext:
        counts.uncovered += pages
        return {}
    entries, bulk = read_rows(kernel.prog, section.page_ext, owner_dtype(kernel), pages, changes)
    counts.covered += pages
    for offset, size in bulk.missing:
        first = section.start_pfn + offset // layout.stride
        last = section.start_pfn + -(-(offset + size) // layout.stride)
        counts.missing += last - first
        counts.missing_ranges.append((first, last))

    # The flags are in the lowest byte, and bytes that lie one after another take a fraction of the
    # time.
    narrow = max(layout.owner_bit, layout.allocated_bit) < 1 << 8
    flags: Array = entries["flags"].astype(np.uint8 if narrow else np.uint64)
    recorded = (flags & layout.owner_bit) != 0
    allocated = recorded & ((flags & layout.allocated_bit) != 0)
    if layout.tails:
        number_allocated = int(np.count_nonzero(allocated))
        counts.allocated += number_allocated
        counts.freed += int(np.count_nonzero(recorded)) - number_allocated
    chosen = np.flatnonzero(recorded if freed else allocated)

    pfn = chosen + section.start_pfn
    order = _sane_orders(_chosen(entries["order"], chosen), pfn, max_pfn, counts)
    if not layout.tails:
        # Only the first page of an allocation has a record.
        counts.allocated += int((np.int64(1) << order.astype(np.int64)).sum())
    if order.any():
        head = np.flatnonzero((pfn & _BEYOND[order]) == 0)
        chosen, pfn, order = chosen[head], pfn[head], order[head]

    result = _members(entries, chosen, columns)
    if "order" in columns:
        result["order"] = order
    return {"pfn": pfn, "allocated": allocated[chosen], **result}


def _sane_orders(order: Array, pfn: Array, max_pfn: int, counts: OwnerCounts) -> Array:
    """
    Replace impossible orders by 0, so that a record with such an order stands for one page.

    :param order: Integers, shape ``(n,)``.
    :param pfn: PFNs of the records, ascending: ``int64``, shape ``(n,)``.
    :param counts: The number of impossible orders is added to this.
    :return: ``uint8``, shape ``(n,)``.
    """
    if not len(order):
        return order.astype(np.uint8)
    largest = int(order.max())
    if int(order.min()) >= 0 and largest < _ORDERS:
        block = 1 << largest
        # All pages of an allocation have the same order, so it ends at the end of their aligned
        # block. If the last page's block of the largest order ends before the end of memory, so do
        # all blocks.
        if (int(pfn[-1]) & -block) + block <= max_pfn:
            return order.astype(np.uint8)
    # The order of a block that extends past the end of memory is garbage.
    sane = (order >= 0) & (order < _ORDERS)
    last = pfn[sane] | _BEYOND[order[sane]]
    sane[sane] = last < max_pfn
    counts.bad_order += len(order) - int(np.count_nonzero(sane))
    result: Array = np.where(sane, order, 0).astype(np.uint8)
    return result


def _members(entries: Array, rows: Array, columns: frozenset[str]) -> dict[str, Array]:
    """
    Get *columns* of records, as far as this kernel has them, in the dtypes of a snapshot.

    :param entries: Entries of a page_ext array.
    :param rows: Indices of the records in *entries*: ``int64``, ascending.
    """
    result: dict[str, Array] = {}
    for name in columns & frozenset(entries.dtype.names or ()):
        column, values = STORED.get(name), _chosen(entries[name], rows)
        if column is None:
            result[name] = values
        elif column.form is Form.COMM:
            result[name] = _terminated(values)
        else:
            result[name] = values.astype(column.dtype, copy=False)
    return result


def _chosen(values: Array, rows: Array) -> Array:
    """
    Return a copy of ``values[rows]``. Neighbouring rows take a fraction of the time.

    :param rows: ``int64``, ascending.
    """
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return values[int(rows[0]) : int(rows[-1]) + 1].copy()
    result: Array = values[rows]
    return result


def _terminated(comm: Array) -> Array:
    """
    Clear the bytes after the NUL of task names, which may be stale.

    :param comm: ``S16``, shape ``(n,)``.
    :return: The same; or a changed copy.
    """
    # Most names are the same as the one before.
    first, lengths = runs(comm)
    names = comm[first]
    characters = names.view(np.uint8).reshape(len(names), comm.dtype.itemsize)
    # A name that is followed by nothing but NULs is as it should be.
    live = characters[:, 1:] != 0
    ended = characters[:, :-1] == 0
    stale = np.flatnonzero((live & ended).any(axis=1))
    if not len(stale):
        return comm
    kept = characters[stale]
    kept[np.logical_or.accumulate(kept == 0, axis=1)] = 0
    characters[stale] = kept
    return np.repeat(names, lengths)


def gfp_migratetype(kernel: Kernel, gfp_mask: Array) -> Array:
    """
    Get the migratetypes of gfp masks, as ``gfp_migratetype()`` of include/linux/gfp.h does.

    :param gfp_mask: ``uint32``, shape ``(n,)``.
    :return: Migratetypes as numbers: ``uint8``, shape ``(n,)``.
    """
    if _mobility_disabled(kernel):
        return np.zeros(len(gfp_mask), np.uint8)
    if reclaimable_before_movable(kernel):
        movable = gfp_mask >> np.uint32(_GFP_MOVABLE_SHIFT) & np.uint32(1)
        reclaimable = gfp_mask >> np.uint32(_OLD_GFP_RECLAIMABLE_SHIFT) & np.uint32(1)
        before: Array = (movable << np.uint32(1) | reclaimable).astype(np.uint8)
        return before
    result: Array = ((gfp_mask >> np.uint32(_GFP_MOVABLE_SHIFT)) & np.uint32(3)).astype(np.uint8)
    return result


def _mobility_disabled(kernel: Kernel) -> bool:
    """
    Return ``page_group_by_mobility_disabled``, which is set on machines with very little memory;
    ``False`` if it is not in the dump.
    """
    disabled = find_object(kernel.prog, "page_group_by_mobility_disabled")
    try:
        return disabled is not None and bool(int(disabled))
    except FaultError:
        return False


@once
def reclaimable_before_movable(kernel: Kernel) -> bool:
    """
    Return whether MIGRATE_RECLAIMABLE precedes MIGRATE_MOVABLE, as before Linux kernel commit
    016c13daa5c9 ("mm, page_alloc: use masks and shifts when converting GFP flags to migrate types")
    (in v4.4).
    """
    values = enumerators(kernel.prog, "enum migratetype")
    return bool(values.get("MIGRATE_RECLAIMABLE", 2) < values.get("MIGRATE_MOVABLE", 1))
