# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the fields of a kernel's structures that can be damaged, by DWARF."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import drgn
import numpy as np
from conftest import Dump
from drgn import FaultError, Object, Program, Type, TypeKind
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import for_each_vmap_area
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr
from drgn.helpers.linux.pid import for_each_pid, for_each_task
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_pageowner import read_memory
from drgn_pageowner.kernel.dump.bulk import find_object, find_type, symbol_address, word_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import Section, find_sections
from drgn_pageowner.kernel.linux.stackdepot import depot_layout, depot_pools
from drgn_pageowner.kernel.linux.translate import direct_map, image_range, kernel_pfns
from drgn_pageowner.model.pages import PageState

# Variables without which no record can be found; a dump without them may be refused.
VITAL = ("mem_section", "__highest_present_section_nr", "page_owner_ops", "page_owner_inited",
         "page_ext_size", "min_low_pfn", "max_pfn")  # fmt: skip
_VARIABLES = (
    *VITAL, "node_states", "nr_node_ids", "node_data", "__cpu_online_mask", "__cpu_possible_mask",
    "__per_cpu_offset", "pools_num", "depot_index", "stack_pools", "stack_slabs",
    "stack_max_pools", "cma_area_count", "cma_areas", "sysctl_extfrag_threshold",
    "hugetlb_max_hstate", "hstates", "pcpu_first_chunk", "pcpu_base_addr", "pcpu_unit_offsets",
    "modules", "init_pid_ns", "slab_caches", "vmap_area_root", "vmap_area_list", "vmap_nodes",
    "nr_vmap_nodes", "iomem_resource", "gfpflag_names", "pageflag_names", "pff",
    "migratetype_names", "migrate_reason_names", "memory_cgrp_subsys", "init_uts_ns", "init_mm",
    "prb", "mod_tree", "page_group_by_mobility_disabled", "init_task", "_totalram_pages",
)  # fmt: skip
_KALLSYMS = ("num_syms", "names", "markers", "token_table", "token_index", "offsets",
             "addresses", "relative_base")  # fmt: skip
_WORDS = (PageState.SLAB, PageState.RESERVED, PageState.KERNEL, PageState.TABLE)
_MOST_ELEMENTS = 24


class Leaf(NamedTuple):
    """A member of a structure that is not a structure itself."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Family:
    """Structures of one type, and how to find them."""

    name: str
    leaves: Sequence[Leaf]
    addresses: Sequence[int]
    vital: bool = False
    """Whether commands may fail if such a structure is damaged."""
    records: Callable[[int], tuple[int, int]] = field(default=lambda address: _none(address))
    """Function that returns the first PFN and the PFN after the last one whose records may differ
    if the structure at an address is damaged."""


def _none(address: int) -> tuple[int, int]:
    return 0, 0


def _all(address: int) -> tuple[int, int]:
    return 0, 1 << 62


def families(dump: Dump) -> list[Family]:
    """Return all families of *dump*."""
    return _families(dump.name, dump)


@functools.cache
def _families(name: str, dump: Dump) -> list[Family]:
    prog = dump.prog
    found = [*_variables(prog), *_sections(prog), *_structures(prog), *_depot(dump), *_words(prog)]
    return [family for family in found if family.addresses and family.leaves]


def leaves(type_: Type, depth: int = 8) -> Iterator[Leaf]:
    """Yield every leaf of *type_*; of long arrays only some elements."""
    type_ = _unaliased(type_)
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) and type_.is_complete():
        if depth:
            yield from _of_members(type_, depth)
    elif type_.kind == TypeKind.ARRAY and type_.length and drgn.sizeof(type_):
        element = _unaliased(type_.type)
        size = drgn.sizeof(element)
        if size == 1:
            yield Leaf("", 0, min(type_.length, 64))
            return
        step = -(-type_.length // _MOST_ELEMENTS)
        for index in range(0, type_.length, step):
            for leaf in leaves(element, depth - 1):
                yield Leaf(f"[{index}]{leaf.path}", index * size + leaf.offset, leaf.size)
    elif type_.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.POINTER):
        yield Leaf("", 0, type_.size)
    elif type_.kind == TypeKind.ENUM and type_.is_complete():
        yield Leaf("", 0, type_.type.size)


def _of_members(type_: Type, depth: int) -> Iterator[Leaf]:
    for member in type_.members or ():
        if member.bit_field_size is not None:
            yield Leaf(f".{member.name}", member.bit_offset // 8, 1)
            continue
        name = f".{member.name}" if member.name else ""
        for leaf in leaves(member.type, depth - 1):
            yield Leaf(name + leaf.path, member.bit_offset // 8 + leaf.offset, leaf.size)


def _unaliased(type_: Type) -> Type:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def _some(type_: Type, *names: str) -> list[Leaf]:
    """Return the leaves of *type_* below its members *names*; all leaves without *names*."""
    starts = tuple(f".{name}" for name in names)
    return [leaf for leaf in leaves(type_) if not names or leaf.path.startswith(starts)]


def _variables(prog: Program) -> Iterator[Family]:
    for name in _VARIABLES:
        variable = find_object(prog, name)
        if variable is None or not variable.address_:
            continue
        vital = name in VITAL
        records = _all if vital else _none
        yield Family(name, list(leaves(variable.type_)), [variable.address_], vital, records)
        if _unaliased(variable.type_).kind == TypeKind.POINTER:
            target = _unaliased(_unaliased(variable.type_).type)
            if target.kind != TypeKind.VOID:
                where = [int(variable)]
                yield Family(f"*{name}", list(leaves(target)), where, vital, records)
    for name in _KALLSYMS:
        address = symbol_address(prog, "kallsyms_" + name)
        if address is not None:
            words = [Leaf(f"[{at}]", at, 4) for at in (0, 4, 8, 64, 510, 1024, 4096)]
            yield Family("kallsyms_" + name, words[: 1 if "num" in name else 7], [address])
    runqueues = find_object(prog, "runqueues")
    if runqueues is not None:
        queues = [int(per_cpu(runqueues, cpu).address_ or 0) for cpu in for_each_online_cpu(prog)]
        yield Family("struct rq", _some(prog.type("struct rq"), "clock", "curr", "idle"), queues)


def _sections(prog: Program) -> Iterator[Family]:
    sections = find_sections(Kernel(prog))
    layout = page_ext_layout(Kernel(prog))
    word = _word(prog)
    if find_object(prog, "mem_section") is not None:
        yield from _table_of_sections(prog, sections, word)

    random = np.random.default_rng(0)
    entries: list[int] = []
    structs: list[int] = []
    page = prog.type("struct page").size
    for section in sections:
        numbers = random.integers(0, section.end_pfn - section.start_pfn, 200).tolist()
        if section.page_ext:
            entries += [section.page_ext + number * layout.stride for number in numbers]
        structs += [section.memmap + number * page for number in numbers]

    def of_entry(address: int) -> tuple[int, int]:
        for section in sections:
            number, rest = divmod(address - section.page_ext, layout.stride)
            pages = section.end_pfn - section.start_pfn
            if section.page_ext and 0 <= number < pages and not rest:
                return section.start_pfn + number, section.start_pfn + number + 1
        raise AssertionError

    owner = [
        Leaf(leaf.path, leaf.offset + layout.owner_offset, leaf.size)
        for leaf in leaves(prog.type(layout.owner_type))
    ]
    flags = Leaf(".flags", 0, word)
    yield Family("struct page_owner", [*owner, flags], entries, False, of_entry)
    words = [Leaf(f"word {at}", at, word) for at in range(0, page, word)]
    halves = [Leaf(f"half {at}", at, 4) for at in range(0, page, 4)]
    yield Family("struct page", [*words, *halves], structs)


def _table_of_sections(prog: Program, sections: list[Section], word: int) -> Iterator[Family]:
    type_ = prog.type("struct mem_section")
    size = type_.size
    pages = sections[0].end_pfn - sections[0].start_pfn
    table = prog["mem_section"][0]
    # These guests only use the first root.
    dynamic = table.type_.kind == TypeKind.POINTER
    root = int(table) if dynamic else int(prog["mem_section"].address_ or 0)
    rows = [root + section.start_pfn // pages * size for section in sections]
    assert len(rows) <= int(prog["PAGE_SIZE"]) // size or not dynamic

    def of_row(address: int) -> tuple[int, int]:
        number = (address - root) // size
        return number * pages, (number + 1) * pages

    yield Family("struct mem_section", list(leaves(type_)), rows, False, of_row)
    usage = find_type(prog, "struct mem_section_usage")
    if usage is not None:
        offset = usage.member("pageblock_flags").offset
        words = [Leaf(f"word {at}", at, word) for at in range(0, offset + 32, word)]
        where = [section.pageblock_flags - offset for section in sections]
        yield Family("struct mem_section_usage", words, where)


def _word(prog: Program) -> int:
    """``sizeof(unsigned long)``."""
    return word_dtype(prog).itemsize


def _structures(prog: Program) -> Iterator[Family]:
    """Return the structures that our code and drgn's helpers walk."""
    nodes = list(for_each_online_pgdat(prog))
    yield _family(prog, "struct pglist_data", nodes, "node_", "per_cpu_nodestats", "vm_stat")
    zones = [zone.address_of_() for node in nodes for zone in node.node_zones]
    yield _family(prog, "struct zone", zones)
    yield _family(prog, "struct zone", zones, "zone_start_pfn", "managed_pages", "spanned_pages",
                  "present_pages", "name", "free_area", "per_cpu", "pageset",
                  "zone_pgdat")  # fmt: skip
    tasks = list(for_each_task(prog))
    yield _family(prog, "struct task_struct", tasks, "stack", "pid", "tgid", "comm", "mm", "thread",
                  "thread_pid", "pids", "pid_links")  # fmt: skip
    yield _family(prog, "struct pid", list(for_each_pid(prog)))
    yield _family(prog, "struct xa_node", _xa_nodes(prog))
    areas = list(for_each_vmap_area(prog))
    yield _family(prog, "struct vmap_area", areas)
    yield _family(prog, "struct vm_struct", [area.vm for area in areas if area.vm])
    caches = list(for_each_slab_cache(prog))
    yield _family(prog, "struct kmem_cache", caches)
    for member in ("cpu_slab", "cpu_sheaves"):
        found = [
            per_cpu_ptr(cache.member_(member), cpu)
            for cache in caches
            if hasattr(cache, member) and cache.member_(member)
            for cpu in for_each_online_cpu(prog)
        ]
        if found:
            yield _family(prog, found[0].type_.type.type_name(), found)
    modules = list(for_each_module(prog))
    yield _family(prog, "struct module", modules, "name", "mem", "core_layout", "init_layout",
                  "kallsyms", "list", "state", "mkobj")  # fmt: skip
    if modules:
        tables = [module.kallsyms for module in modules if module.kallsyms]
        yield _family(prog, "struct mod_kallsyms", tables)
        symbols = [table.symtab + at for table in tables for at in (0, 1, 5)]
        yield _family(prog, symbols[0].type_.type.type_name(), symbols)
    yield from _cgroups(prog)
    resources = [prog["iomem_resource"].child]
    while resources[-1].sibling:
        resources.append(resources[-1].sibling.read_())
    yield _family(prog, "struct resource", resources)
    superblock = symbol_address(prog, "blockdev_superblock")
    if superblock is not None:
        block = Object(prog, "struct super_block *", address=superblock)
        inodes = list(
            list_for_each_entry("struct inode", block.s_inodes.address_of_(), "i_sb_list")
        )
        yield _family(prog, "struct super_block", [block], "s_inodes", "s_type", "s_root")
        yield _family(prog, "struct inode", inodes, "i_mapping", "i_sb", "i_mode")


def _family(prog: Program, name: str, objects: Sequence[Object], *members: str) -> Family:
    where = [int(entry) for entry in objects]
    return Family(name, _some(prog.type(name), *members) if where else [], where)


def _xa_nodes(prog: Program) -> list[Object]:
    """Yield the nodes of the tree of PIDs."""
    found = []
    waiting = [int(prog["init_pid_ns"].idr.idr_rt.xa_head)]
    while waiting:
        entry = waiting.pop()
        if entry & 3 == 2 and entry > 4096:
            node = Object(prog, "struct xa_node *", value=entry - 2)
            found.append(node)
            waiting += [int(slot) for slot in node.slots]
    return found


def _cgroups(prog: Program) -> Iterator[Family]:
    root = find_object(prog, "cgrp_dfl_root")
    if root is None:
        return
    subsystem = prog["memory_cgrp_subsys"]
    memcgs = [
        Object(prog, "struct mem_cgroup *", value=int(css))
        for css in list_for_each_entry(
            "struct cgroup_subsys_state", subsystem.root.cgrp.self.children.address_of_(), "sibling"
        )
        for css in [css.cgroup.subsys[int(subsystem.id)]]
        if css
    ]
    yield _family(prog, "struct mem_cgroup", memcgs, "css", "objcg", "id", "memory")
    cgroups = [memcg.css.cgroup for memcg in memcgs]
    yield _family(prog, "struct cgroup", cgroups, "self", "kn", "root")
    kernfs = []
    for cgroup in cgroups:
        node = cgroup.kn
        while node:
            kernfs.append(node)
            node = node.parent if hasattr(node, "parent") else node.member_("__parent")
            node = node.read_()
    yield _family(prog, "struct kernfs_node", kernfs)


def _depot(dump: Dump) -> Iterator[Family]:
    prog = dump.prog
    layout = depot_layout(Kernel(prog))
    pools = prog[layout.pools]
    handles = np.unique(dump.snapshot["handle"])
    handles = handles[handles != 0]
    index, offset = layout.pool_index(handles), layout.record_offset(handles)
    records = [int(pools[i]) + at for i, at in zip(index.tolist(), offset.tolist(), strict=True)]
    yield Family("struct stack_record", list(leaves(prog.type("struct stack_record"))), records)
    entries, word = layout.entries_offset, _word(prog)
    pcs = [Leaf(f"[{n}]", entries + word * n, word) for n in range(3)]
    yield Family("stack entries", pcs, records)
    addresses, _ = depot_pools(Kernel(prog))
    first = int(pools.address_ or 0) if "stack_slabs" in layout.pools else int(pools[0].address_)
    slots = [Leaf(f"[{n}]", word * n, word) for n in range(len(addresses) + 2)]
    yield Family("pools of the stack depot", slots, [first])


def _words(prog: Program) -> Iterator[Family]:
    """Return words of pages by their use, and of the kernel image: free pointers, page tables,
    ..."""
    pages = read_memory(prog).pages
    size = int(prog["PAGE_SIZE"])
    base, word = direct_map(Kernel(prog)), _word(prog)
    words = [Leaf(f"+ {at:#x}", at, word) for at in range(0, size, word)]
    random = np.random.default_rng(1)
    every = np.arange(len(pages))
    # The page_ext arrays have separate families, which know the affected records.
    stride = page_ext_layout(Kernel(prog)).stride
    records = np.concatenate([
        kernel_pfns(Kernel(prog), s.page_ext, -(-(s.end_pfn - s.start_pfn) * stride // size) + 1)
        for s in find_sections(Kernel(prog))
        if s.page_ext
    ])  # fmt: skip
    for state in _WORDS:
        rows = np.flatnonzero((pages.state == state) & ~np.isin(pages.pfns(every), records))
        if len(rows):
            chosen = pages.pfns(random.choice(rows, min(len(rows), 500), replace=False))
            vital = state == PageState.RESERVED
            where = [base + phys for phys in (chosen * size).tolist()]
            yield Family(f"{PageState(state).label} page", words, where, vital)
    image = image_range(Kernel(prog))
    assert image is not None
    for name in ("_sdata", "__bss_start", "__start_rodata"):
        start = symbol_address(prog, name)
        if start is not None:
            length = min(0x200000, image[1] - size - start)
            places = (random.integers(0, length, 300) & -8).tolist()
            yield Family(f"{name} words", words, [start + at for at in places], vital=True)


def read(prog: Program, address: int, size: int) -> bytes | None:
    """Return the bytes at *address*."""
    try:
        return bytes(prog.read(address, size))
    except (FaultError, drgn.OutOfBoundsError, ValueError):
        return None
