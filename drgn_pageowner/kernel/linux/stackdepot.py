# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read stacks from the stack depot by their ``depot_stack_handle_t``, one pool at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from drgn import FaultError

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    has_member,
    read_array,
    read_bulk,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.progress import progress

__all__ = ("DepotLayout", "depot_layout", "depot_pools", "depot_use", "read_stacks")

# STACK_ALLOC_ALIGN, later DEPOT_STACK_ALIGN, and STACK_ALLOC_ORDER, later DEPOT_POOL_ORDER:
# macros of lib/stackdepot.c that have not changed since Linux kernel commit cd11016e5f52 ("mm,
# kasan: stackdepot implementation. Enable stackdepot for SLAB") (in v4.6).
_STACK_ALIGN = 4
_POOL_ORDER = 2
# No user of the depot saves more frames (page_owner: 16; CONFIG_STACKDEPOT_MAX_FRAMES: 64 by
# default, at most 256).
_MAX_FRAMES = 256
# REFCOUNT_SATURATED of include/linux/refcount.h, the count of stacks whose pages page_owner does
# not count.
_REFCOUNT_SATURATED = -(1 << 30)


@dataclass(frozen=True)
class DepotLayout:
    """Layout of handles, pools and records in this kernel's stack depot."""

    name: str
    """Name of the layout, to be printed."""
    pools: str
    """Name of the kernel's array of pools."""
    pool_shift: int
    """Lowest bit of the pool number in a handle."""
    pool_bits: int
    """Number of bits of the pool number in a handle."""
    pool_bias: int
    """Number to subtract from the pool number in a handle to get the index of the pool."""
    offset_shift: int
    """Lowest bit of the record's offset in a handle."""
    offset_bits: int
    """Number of bits of the record's offset in a handle."""
    pool_size: int
    """Size of a pool, in bytes."""
    record: np.dtype[np.void]
    """Dtype of ``struct stack_record``, with ``size`` and, if they exist, ``count`` and
    ``handle``."""
    entries_offset: int
    """Offset of ``stack_record.entries``, in bytes."""

    def pool_index(self, handles: Array) -> Array:
        """
        Get the index of each handle's pool in the array of pools.

        :return: ``int64``; out of range for a bad handle.
        """
        raw = (handles.astype(np.int64) >> self.pool_shift) & ((1 << self.pool_bits) - 1)
        result: Array = raw - self.pool_bias
        return result

    def record_offset(self, handles: Array) -> Array:
        """Get the offset of each ``struct stack_record`` in its pool, in bytes: ``int64``."""
        raw = (handles.astype(np.int64) >> self.offset_shift) & ((1 << self.offset_bits) - 1)
        result: Array = raw << _STACK_ALIGN
        return result


@once
def depot_layout(kernel: Kernel) -> DepotLayout:
    """
    Get the layout of this kernel's stack depot.

    :raises PageOwnerError: if this kernel has no stack depot, or its layout is not known
    """
    try:
        parts = kernel.prog.type("union handle_parts")
        record = kernel.prog.type("struct stack_record")
    except LookupError as error:
        raise PageOwnerError(
            "no union handle_parts in the debugging symbols: this vmlinux has no DWARF for "
            "lib/stackdepot.c, so stacks cannot be read"
        ) from error
    # Renamed in Linux kernel commit 961c949b012f ("lib/stackdepot: rename slab to pool") (in v6.3).
    pools = "stack_pools" if find_object(kernel.prog, "stack_pools") is not None else "stack_slabs"
    bias = 0
    if has_member(parts, "pool_index_plus_1"):
        # Renamed in Linux kernel commit a6c1d9cb9a68 ("stackdepot: rename pool_index to
        # pool_index_plus_1") (in v6.9).
        member, bias, name = "pool_index_plus_1", 1, "pools, index + 1 (since v6.9)"
    elif has_member(parts, "pool_index"):
        member, name = "pool_index", "pools (v6.3 to v6.8)"
        # Linux kernel commit 3ee34eabac2a ("lib/stackdepot: fix first entry having a 0-handle")
        # (in v6.9, backported to v6.8.y) stored the index plus 1 before the member was renamed. A
        # handle of 0 means none, so the depot needs either that or a bit "valid".
        if not has_member(parts, "valid"):
            bias = _probe_bias(kernel, pools)
    else:
        member = "slabindex"
        extra = has_member(parts, "extra")
        # Extra bits were added in Linux kernel commit 83a4f1ef45a9 ("stackdepot: reserve 5 extra
        # bits in depot_stack_handle_t") (in v6.1).
        name = "slabs with extra bits (v6.1 to v6.2)" if extra else "slabs (v4.6 to v6.0)"
    pool_shift, pool_bits = _bit_field(parts, member)
    offset_shift, offset_bits = _bit_field(parts, "offset")
    return DepotLayout(
        name=name,
        pools=pools,
        pool_shift=pool_shift,
        pool_bits=pool_bits,
        pool_bias=bias,
        offset_shift=offset_shift,
        offset_bits=offset_bits,
        pool_size=kernel.page_size << _POOL_ORDER,
        record=struct_dtype(
            kernel.prog,
            record,
            {"size": "size", "count": "count.refs.counter", "handle": "handle.handle"},
        ),
        entries_offset=record.member("entries").offset,
    )


def _bit_field(type_: Any, name: str) -> tuple[int, int]:
    """Get the lowest bit, and the number of bits, of a member of ``union handle_parts``."""
    member = type_.member(name)
    return member.bit_offset, member.bit_field_size or member.type.size * 8


def _probe_bias(kernel: Kernel, pools: str) -> int:
    """
    Find out from the first record whether handles have the index of the pool, or the index plus 1.

    :param pools: Name of the kernel's array of pools.
    :return: 0 for the index, 1 for the index plus 1.
    """
    first_pool = int(kernel.prog[pools][0])
    record = kernel.prog.type("struct stack_record")
    handle = int.from_bytes(
        kernel.prog.read(first_pool + record.member("handle").offset, 4),
        "little" if kernel.word.byteorder in "<=" else "big",
    )
    shift, bits = _bit_field(kernel.prog.type("union handle_parts"), "pool_index")
    return (handle >> shift) & ((1 << bits) - 1)


def _pool_addresses(kernel: Kernel, ahead: int = 0) -> Array:
    """
    Read the addresses of the pools that are in use: ``uint64``.

    :param ahead: Number of elements of the array of pools to read after those in use.
    """
    pools = kernel.prog[depot_layout(kernel).pools]
    used = find_object(kernel.prog, "pools_num", "lib/stackdepot.c")
    if used is None:
        # Before 961c949b012f (see above), this is the index of the last pool in use.
        index = find_object(kernel.prog, "depot_index", "lib/stackdepot.c")
        if index is None:
            index = kernel.prog.variable("pool_index", "lib/stackdepot.c")
        number = int(index) + 1
    else:
        number = int(used)
    # An array; since Linux kernel commit ed4f142f72a9 ("stackdepot: make max number of pools
    # boot-time configurable") (in v6.17), a pointer to an array.
    if hasattr(pools.type_, "length") and pools.type_.kind.name == "ARRAY":
        address = int(pools.address_ or 0)
    else:
        address = int(pools)
    most = _most_pools(kernel)
    if not 0 <= number <= most:
        # The number of pools is damaged. Read the whole array; pointers after the last pool are
        # null.
        number = most
    return read_array(kernel.prog, address, kernel.word, min(number + ahead, most))


def _most_pools(kernel: Kernel) -> int:
    """Get the number of pools that the array of pools has room for."""
    layout = depot_layout(kernel)
    array = kernel.prog[layout.pools].type_
    limit = find_object(kernel.prog, "stack_max_pools", "lib/stackdepot.c")
    room = int(limit) if limit is not None else int(getattr(array, "length", None) or 0)
    return min(room, 1 << layout.pool_bits)


def depot_pools(kernel: Kernel) -> tuple[Array, int]:
    """
    Get the memory of the stack depot's pools, including a pool that is allocated for later use.

    :return: Addresses of the pools (``uint64``), and the size of a pool in bytes.
    """
    # The pool that will be used next is in the array after those in use; since Linux kernel commit
    # a5d21f71715a ("lib/stackdepot: store next pool pointer in new_pool") (in v6.8), it is in a
    # variable instead.
    pools = _pool_addresses(kernel, ahead=1)
    following = find_object(kernel.prog, "new_pool", "lib/stackdepot.c")
    if following is not None:
        pools = np.append(pools, np.uint64(int(following)))
    return pools[pools != 0], depot_layout(kernel).pool_size


def read_stacks(kernel: Kernel, handles: Array) -> tuple[Stacks, Array]:
    """
    Read the stacks of *handles*. Each pool that contains such a stack is read once.

    :param handles: ``uint32``, shape ``(n,)``, ascending and unique.
    :return: The stacks; and the handles, except 0, whose stack is not in the depot: ``uint32``.
    :raises PageOwnerError: if the array of pools cannot be read
    """
    layout = depot_layout(kernel)
    handles = handles[handles != 0]
    try:
        pools = _pool_addresses(kernel)
    except FaultError as fault:
        raise PageOwnerError(f"cannot read {layout.pools} of the stack depot ({fault})") from fault
    index = layout.pool_index(handles)
    offset = layout.record_offset(handles)
    order = np.argsort(index, kind="stable")
    known = (index >= 0) & (index < len(pools))
    order = order[known[order]]

    good: list[Array] = []
    depths: list[Array] = []
    counts: list[Array] = []
    frames: list[Array] = []
    word = kernel.word
    header = layout.record
    groups = np.split(order, np.flatnonzero(np.diff(index[order])) + 1) if len(order) else []
    for members in progress(groups, description="stack depot", total=len(groups), unit=" pool"):
        address = int(pools[index[members[0]]])
        if not address:
            continue
        bulk = read_bulk(kernel.prog, address, layout.pool_size)
        # Pad the pool, because a bad handle may point to its last bytes.
        pool = np.frombuffer(bytes(bulk.data) + bytes(header.itemsize), np.uint8)
        at = offset[members]
        heads = np.ndarray(
            len(pool) - header.itemsize,
            header,
            pool,
            strides=(1,),
        )[at]
        size = heads["size"].astype(np.int64)
        end = at + layout.entries_offset + size * word.itemsize
        right = (size > 0) & (size <= _MAX_FRAMES) & (end <= layout.pool_size)
        # Every record contains its own handle, without the extra bits of users of the depot.
        mask = np.uint32(
            ((1 << layout.pool_bits) - 1) << layout.pool_shift
            | ((1 << layout.offset_bits) - 1) << layout.offset_shift
        )
        right &= (heads["handle"] & mask) == (handles[members] & mask)
        for hole, hole_size in bulk.missing:
            right &= (at >= hole + hole_size) | (end <= hole)
        members, at, size = members[right], at[right], size[right]
        if not len(members):
            continue
        words = pool[: layout.pool_size].view(word)
        start = (at + layout.entries_offset) // word.itemsize
        frames.append(words[ranges(start, size)])
        good.append(members)
        depths.append(size)
        if "count" in (header.names or ()):
            counts.append(heads["count"][right].astype(np.int64))

    if not good:
        return Stacks.empty(), handles
    position = np.concatenate(good)
    depth = np.concatenate(depths)
    starts = np.concatenate(([0], np.cumsum(depth)[:-1]))
    by_handle = np.argsort(position, kind="stable")
    pcs = np.concatenate(frames)[ranges(starts[by_handle], depth[by_handle])]
    position = position[by_handle]
    count = None
    if counts:
        count = np.concatenate(counts)[by_handle]
        # The count is one more than the number of pages. That of page_owner's dummy stacks is
        # saturated, which means that their pages are not counted.
        count = np.where(count == _REFCOUNT_SATURATED, -1, count - 1)
    stacks = Stacks(
        handles[position],
        np.concatenate(([0], np.cumsum(depth[by_handle]))).astype(np.int64),
        pcs.astype(np.uint64, copy=False),
        count,
    )
    bad = np.ones(len(handles), bool)
    bad[position] = False
    return stacks, handles[bad]


def depot_use(kernel: Kernel) -> dict[str, int]:
    """
    Get the size of the stack depot.

    :return: ``pools``: number of allocated pools; ``bytes``: their size; ``capacity``: maximum
        number of pools.
    """
    pools = _pool_addresses(kernel)
    allocated = int(np.count_nonzero(pools))
    return {
        "pools": allocated,
        "bytes": allocated * depot_layout(kernel).pool_size,
        "capacity": _most_pools(kernel),
    }
