# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the memory cgroups that pages are charged to, from ``page.memcg_data``."""

from __future__ import annotations

import numpy as np
from drgn import Object
from drgn.helpers.linux.cgroup import cgroup_name
from drgn.helpers.linux.kernfs import kernfs_parent

from drgn_pageowner.kernel.dump.bulk import find_object, find_type, has_member, read_word
from drgn_pageowner.kernel.dump.damage import DAMAGE, chain, name_of, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.model.arrays import Array, runs
from drgn_pageowner.model.records import Memcg, MemcgKind

__all__ = ("MemcgTable",)

# Low bits of page.memcg_data (enum page_memcg_data_flags). If bit 0 is set, the page is slab and
# the other bits are a pointer to the cgroups of its objects; if bit 1 is set, they are certainly a
# pointer to an obj_cgroup. Since Linux kernel commits 87944e2992bd ("mm: Introduce page memcg
# flags") (in v5.11) and b4e0b68fbd9d ("mm: memcontrol: use obj_cgroup APIs to charge kmem pages")
# (in v5.13).
_SLAB = 1 << 0
_KMEM = 1 << 1
_FLAGS = (1 << 3) - 1


class MemcgTable:
    """Accumulates the memory cgroups that pages refer to. Each cgroup is decoded once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._subsystem = find_object(kernel.prog, "memory_cgrp_subsys")
        self._objcg = find_type(kernel.prog, "struct obj_cgroup")
        self.memcgs: list[Memcg] = []
        self.unknown = 0
        """Number of distinct values that point to neither a mem_cgroup nor an obj_cgroup."""
        self.in_doubt: set[str] = set()
        """Paths of memory cgroups for which :attr:`Memcg.printed` is uncertain: it is computed for
        ``print_page_owner_memcg()`` of v6.12.114, which has a bug that a later release may have
        fixed (see ``_printed()``)."""
        self._by_pointer: dict[int, int] = {}
        self._by_memcg: dict[int, int] = {}

    def columns(self, memcg_data: Array) -> tuple[Array, Array]:
        """
        Decode ``page.memcg_data``, which was ``page.mem_cgroup`` before Linux kernel commit
        bcfe06bf2622 ("mm: memcontrol: Use helpers to read page's memcg data") (in v5.11).

        :param memcg_data: ``uint64``, shape ``(n,)``.
        :return: ``memcg`` (``int32``: index in :attr:`memcgs`, or -1) and ``memcg_kind``
            (``uint8``: :class:`MemcgKind`), each of shape ``(n,)``.
        """
        # Pages that were allocated together are charged to the same cgroup, and most to none.
        first, lengths = runs(memcg_data)
        values, of_run = np.unique(memcg_data[first], return_inverse=True)
        slab = (values & np.uint64(_SLAB)) != 0
        kmem = (values & np.uint64(_KMEM)) != 0
        index = np.full(len(values), -1, np.int32)
        for position in np.flatnonzero(~slab & (values != 0)).tolist():
            index[position] = self._find(int(values[position]) & ~_FLAGS)
        kind = np.where(index >= 0, MemcgKind.CHARGED, MemcgKind.NONE).astype(np.uint8)
        kind[kmem & (index >= 0)] = MemcgKind.OBJCG
        kind[slab] = MemcgKind.SLAB
        return np.repeat(index[of_run], lengths), np.repeat(kind[of_run], lengths)

    def _find(self, pointer: int) -> int:
        if pointer not in self._by_pointer:
            self._by_pointer[pointer] = self._decode(pointer)
        return self._by_pointer[pointer]

    def _decode(self, pointer: int) -> int:
        """
        Decode a ``struct mem_cgroup *`` or a ``struct obj_cgroup *``.

        Which of the two the pointer is depends on the kernel and the page. Since Linux kernel
        commit f1cf8d2f36dc ("mm: memcontrol: eliminate the problem of dying memory cgroup for LRU
        folios") (in v7.1) it is always an obj_cgroup. The version is not needed to tell them apart:
        if the css at the pointer belongs to the memory controller, it is a mem_cgroup.

        :return: Index in :attr:`memcgs`; -1 if the pointer is neither.
        """
        memcg = self._mem_cgroup(pointer)
        if memcg is None and self._objcg is not None:
            try:
                objcg = Object(self._kernel.prog, self._objcg, address=pointer)
                memcg = self._mem_cgroup(int(objcg.memcg))
            except DAMAGE as error:
                unless_mistaken(error)
                memcg = None
        if memcg is None:
            self.unknown += 1
            return -1
        address = int(memcg.address_ or 0)
        if address not in self._by_memcg:
            self._by_memcg[address] = len(self.memcgs)
            described = _describe(self._kernel, memcg)
            printed = self._printed(address)
            if not printed:
                self.in_doubt.add(described.path)
            self.memcgs.append(described._replace(printed=printed))
        return self._by_memcg[address]

    def _printed(self, address: int) -> bool:
        """
        Return whether ``print_page_owner_memcg()`` prints the mem_cgroup at *address*.

        The stable release v6.12.114 has the backported commit "mm/page_owner: use memcg_data
        snapshot to avoid TOCTOU in print_page_owner_memcg()". Since then the function treats every
        value as an obj_cgroup, which is correct in v7.2 and wrong in v6.12: it reads ``css.refcnt``
        instead of ``objcg->memcg``, prints nothing if the result is 0 (the root cgroup), and oopses
        otherwise. A later 6.12 release may have fixed this, which only the machine code of the
        function would show. Memory cgroups that are not printed are therefore added to
        :attr:`in_doubt`.
        """
        if self._objcg is None or not _takes_all_for_objcg(self._kernel):
            return True
        member = address + self._objcg.member("memcg").offset
        try:
            return bool(read_word(self._kernel.prog, member))
        except DAMAGE as error:
            unless_mistaken(error)
            return True

    def _mem_cgroup(self, address: int) -> Object | None:
        if not address or self._subsystem is None:
            return None
        memcg = Object(self._kernel.prog, "struct mem_cgroup", address=address)
        try:
            subsystem = int(memcg.css.ss)
        except DAMAGE as error:
            unless_mistaken(error)
            return None
        return memcg if subsystem == self._subsystem.address_ else None


def _describe(kernel: Kernel, memcg: Object) -> Memcg:
    try:
        cgroup = memcg.css.cgroup
        # cgroup_name() prints "/" for the root, which has an empty name.
        name = cgroup_name(cgroup).decode(errors="backslashreplace") or "/"
        path = _path(cgroup)
        kn_id = cgroup.kn.id
        # union kernfs_node_id before Linux kernel commit 67c0496e87d1 ("kernfs: convert
        # kernfs_node->id from union kernfs_node_id to u64") (in v5.5).
        number = int(kn_id.ino) if has_member(kn_id.type_, "ino") else int(kn_id)
        online = bool(int(memcg.css.flags) & _css_online(kernel))
        return Memcg(name, path, online, number & 0xFFFFFFFF if number >> 32 else number)
    except DAMAGE as error:
        unless_mistaken(error)
        return Memcg(f"?{memcg.address_:#x}", "?", False, 0)


def _path(cgroup: Object) -> str:
    """Get the path of a ``struct cgroup *``, as the kernel's ``cgroup_path()`` does."""
    *directories, _ = chain(cgroup.kn, kernfs_parent)
    return "/" + "/".join(name_of(node.name) for node in reversed(directories))


def _css_online(kernel: Kernel) -> int:
    return int(kernel.prog.constant("CSS_ONLINE"))


def _takes_all_for_objcg(kernel: Kernel) -> bool:
    # Only a static inline function changed, in a stable release, so go by the version.
    release = kernel.vmcoreinfo.release
    return release[:2] == (6, 12) and release.patch >= 114
