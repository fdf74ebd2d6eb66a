# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts of C types, from DWARF: which words can be references, and the types of their targets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from drgn import Type, TypeKind, TypeMember, sizeof

from drgn_pageowner.kernel.dump.bulk import find_type
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.slab import slab_caches
from drgn_pageowner.kernel.read.counted import counted_arrays
from drgn_pageowner.kernel.read.member_path import unaliased
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.types import Counted, Layout, WordUse

__all__ = ("DwarfTypes", "read_types")

_STRUCTURES = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)
_SCALARS = (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM, TypeKind.FLOAT)
# Link structures, such as list_head. A pointer to one does not show the type of the structure that
# contains it; its members point to other links of the same kind.
_LINKS = frozenset({
    "list_head", "hlist_head", "hlist_node", "hlist_nulls_head", "hlist_nulls_node",
    "hlist_bl_head", "hlist_bl_node", "llist_head", "llist_node", "rb_node", "rb_root",
    "rb_root_cached", "rb_root_linked", "rb_node_linked", "plist_head", "plist_node",
    "callback_head", "rcu_head",
})  # fmt: skip
# rcu_head is a macro that expands to callback_head.
_CALLBACKS = frozenset({"rcu_head", "callback_head"})
# Heads of lists that are cast to the type of the list's elements.
_HEADS = {"sk_buff_head": "sk_buff", "sk_buff_list": "sk_buff"}
# Trees whose entries have different types, depending on the owner of the tree.
_MIXED = frozenset({"xa_node", "radix_tree_node", "maple_node", "xarray", "idr_layer"})
# Pointers to these types point to the memmap.
_MEMMAP = frozenset({"page", "folio", "slab", "ptdesc", "zpdesc", "zsdesc", "net_iov"})
# Types that contain saved registers, which are not references by the kernel.
_REGISTERS = frozenset({
    "fpregs_state", "fregs_state", "fxregs_state", "swregs_state", "xregs_state",
    "user_fpsimd_state",
})  # fmt: skip
# Integer types for physical addresses, which may be wider than a word or an int.
_PHYSICAL = frozenset({"phys_addr_t", "dma_addr_t", "resource_size_t"})
# Integer types that are as wide as a word, although on 32-bit kernels they are, or contain, an int.
_WORD_NAMES = frozenset({"atomic_long_t", "uintptr_t"})
# Arrays are expanded element by element up to this size, in words, and structures in arrays count
# as members up to this number of elements.
_MOST_WORDS, _MOST_PARTS = 1 << 16, 64

# Names of slab caches that differ from those of their objects' structures. KMEM_CACHE() of
# include/linux/slab.h names a cache after the structure.
_CACHE_TYPES = {
    "anon_vma": "anon_vma",
    "bdev_cache": "bdev_inode",
    "blkdev_ioc": "io_context",
    "cred_jar": "cred",
    "debugfs_inode_cache": "debugfs_inode_info",
    "eventpoll_epi": "epitem",
    "eventpoll_pwq": "eppoll_entry",
    "ext2_inode_cache": "ext2_inode_info",
    "ext4_inode_cache": "ext4_inode_info",
    "files_cache": "files_struct",
    "filp": "file",
    "fs_cache": "fs_struct",
    "hugetlbfs_inode_cache": "hugetlbfs_inode_info",
    "inode_cache": "inode",
    "kernfs_iattrs_cache": "kernfs_iattrs",
    "kernfs_node_cache": "kernfs_node",
    "mm_struct": "mm_struct",
    "mnt_cache": "mount",
    "nsproxy": "nsproxy",
    "pool_workqueue": "pool_workqueue",
    "proc_dir_entry": "proc_dir_entry",
    "proc_inode_cache": "proc_inode",
    "radix_tree_node": "xa_node",
    "request_queue": "request_queue",
    "shmem_inode_cache": "shmem_inode_info",
    "sighand_cache": "sighand_struct",
    "signal_cache": "signal_struct",
    "skbuff_fclone_cache": "sk_buff_fclones",
    "skbuff_head_cache": "sk_buff",
    "sock_inode_cache": "socket_alloc",
    "task_delay_info": "task_delay_info",
    "taskstats": "taskstats",
    "user_struct": "user_struct",
    "uid_cache": "user_struct",
    "UNIX": "unix_sock",
    "UNIX-STREAM": "unix_sock",
    "TCP": "tcp_sock",
    "TCPv6": "tcp6_sock",
    "UDP": "udp_sock",
    "UDPv6": "udp6_sock",
    "RAW": "raw_sock",
    "PING": "inet_sock",
    "NETLINK": "netlink_sock",
    "PACKET": "packet_sock",
    "vmap_area": "vmap_area",
}
# Caches whose objects may be smaller than their structure, or much larger.
_TRUNCATED = frozenset({"task_struct", "kmem_cache", "mm_struct"})
# Prefix of the names of zsmalloc's caches whose objects are handles (create_cache() of
# mm/zsmalloc.c).
_HANDLES = "zs_handle"
# Prefixes of names of caches whose objects are arrays, and the structure that each is an array of.
_CACHE_ARRAYS = {"biovec-": "bio_vec", "sgpool-": "scatterlist"}

# The bits of WordUse as plain integers, which are combined for every member.
_NOTHING, _ADDRESS, _NUMBER = int(WordUse.NOTHING), int(WordUse.ADDRESS), int(WordUse.NUMBER)
_MEMMAP_POINTER, _LEARN = int(WordUse.MEMMAP), int(WordUse.LEARN)
_UNNAMED, _CALLBACK = int(WordUse.UNNAMED), int(WordUse.CALLBACK)
# Words in the names of members that contain PFNs or physical addresses although they have a plain
# integer type.
_LIKE_NUMBERS = re.compile(
    r"pfn|phys|paddr|addr|dma|page|frame|base|start|end|pgd|cr3|private|data"
)


class _Facts(NamedTuple):
    """Properties of a member's type, which are cached because asking drgn takes long."""

    plain: Type
    """The type without qualifiers and typedefs."""
    place: int
    """Address of drgn's internal structure of the type, which identifies the type."""
    kind: TypeKind
    size: int
    """Size in bytes; 0 for a type without a size."""
    typedefs: frozenset[str]
    """Names of the typedefs that the type was declared by."""


class DwarfTypes:
    """
    The C types of a kernel; each is read when it is first used.

    It implements :class:`~drgn_pageowner.model.types.TypeTable`.
    """

    def __init__(self, kernel: Kernel, caches: Sequence[str], sizes: Array) -> None:
        """
        :param caches: Names of the slab caches.
        :param sizes: ``int64``: ``object_size`` of each cache, in bytes; 0 if it has no slabs.
        """
        self._kernel = kernel
        self.word = kernel.word.itemsize
        self._types: list[Type] = []
        self._repeats: list[bool] = []
        self._layouts: list[Layout | None] = []
        self._by_pointer: dict[tuple[int, bool], int] = {}
        self._by_name: dict[tuple[str, int, bool], int] = {}
        self._flat: dict[int, Layout] = {}
        self._known: dict[int, _Facts] = {}
        self._counted: Sequence[Counted] | None = None
        self._cache_types, self._shared = self._of_caches(caches, sizes)

    def __len__(self) -> int:
        return len(self._types)

    def cache_types(self) -> Array:
        return self._cache_types

    def shared_caches(self) -> Array:
        return self._shared

    def repeated(self, number: int) -> int:
        return self.number(self._types[number], repeat=True)

    def counted(self) -> Sequence[Counted]:
        if self._counted is None:
            self._counted = tuple(counted_arrays(self))
        return self._counted

    def type_of(self, number: int) -> Type:
        """Get drgn's type object; for an array of unknown length, that of an element."""
        return self._types[number]

    def repeats(self, number: int) -> bool:
        """Return whether the type with number *number* is an array of unknown length."""
        return self._repeats[number]

    def number(self, type_: Type, *, repeat: bool = False) -> int:
        """
        Get the number of a type.

        Types of the same kind, name and size count as one type, even if declared in several files.

        :param repeat: Whether an array of unknown length is meant, with elements of *type_*.
        """
        type_ = _plain(type_)
        # The address of drgn's internal type, which is the same for the same DWARF entry.
        place = (int(type_._ptr), repeat)
        if place in self._by_pointer:
            return self._by_pointer[place]
        if type_.kind in _STRUCTURES and not type_.is_complete():
            type_ = self._complete(type_)
        size = _size(type_)
        key = (type_.type_name(), size, repeat)
        number = self._by_name.get(key)
        if number is None:
            number = len(self._types)
            self._by_name[key] = number
            self._types.append(type_)
            self._repeats.append(repeat)
            self._layouts.append(None)
        self._by_pointer[place] = number
        return number

    def find(self, name: str, *, repeat: bool = False) -> int:
        """Get the number of a type by its name; -1 if the debugging symbols have no such type."""
        type_ = find_type(self._kernel.prog, name)
        if type_ is None or (type_.kind in _STRUCTURES and not type_.is_complete()):
            return -1
        return self.number(type_, repeat=repeat)

    def layout(self, number: int) -> Layout:
        found = self._layouts[number]
        if found is None:
            repeat, type_ = self._repeats[number], self._types[number]
            flat = self._flatten(type_)
            name = type_.type_name() + (" []" if repeat else "")
            parts = [*flat.parts]
            if type_.kind in _STRUCTURES and not repeat:
                parts = [part for part in parts if part[1] != number]
            found = Layout(
                name, flat.size, flat.use, flat.aim, parts, repeat, flat.flexible, flat.choices
            )
            self._layouts[number] = found
        return found

    def _complete(self, type_: Type) -> Type:
        tag = getattr(type_, "tag", None)
        if tag is None:
            return type_
        keyword = "union" if type_.kind == TypeKind.UNION else "struct"
        found = find_type(self._kernel.prog, f"{keyword} {tag}")
        return found if found is not None else type_

    def _facts(self, type_: Type) -> _Facts:
        place = int(type_._ptr)
        found = self._known.get(place)
        if found is None:
            plain = unaliased(type_)
            found = _Facts(
                plain, int(plain._ptr), plain.kind, _size(plain), frozenset(_typedefs(type_))
            )
            self._known[place] = found
        return found

    # --- words --------------------------------------------------------------------------------

    def _flatten(self, type_: Type) -> Layout:
        """
        Determine the :class:`Layout` of a type: what each of its words can refer to.

        For an array of unknown length, this is the layout of one element.
        """
        return self._of_facts(self._facts(type_))

    def _of_facts(self, facts: _Facts) -> Layout:
        found = self._flat.get(facts.place)
        if found is None:
            found = self._flat[facts.place] = self._of_kind(facts.plain)
        return found

    def _of_kind(self, type_: Type) -> Layout:
        name = type_.type_name()
        if type_.kind in _STRUCTURES:
            return self._of_structure(type_, name) if type_.is_complete() else _empty(name)
        if type_.kind == TypeKind.ARRAY:
            return self._of_array(type_, name)
        if type_.kind == TypeKind.POINTER:
            use, aim = self._of_pointer(type_)
            return Layout(name, self.word, np.array([use], np.uint8), np.array([aim], np.int32))
        size = _size(type_)
        painter = _Painter(size, self.word)
        painter.paint(0, size, self._of_number(self._facts(type_), ""))
        return painter.layout(name)

    def _of_pointer(self, type_: Type) -> tuple[int, int]:
        facts = self._facts(type_.type)
        target, kind = facts.plain, facts.kind
        if kind in _STRUCTURES:
            tag = target.tag
            if tag in _MEMMAP:
                return _ADDRESS | _MEMMAP_POINTER, -1
            if tag in _LINKS:
                return _ADDRESS | _LEARN, -1
            return _ADDRESS, self.number(type_.type)
        if kind == TypeKind.POINTER:
            inner = self._facts(target.type)
            if inner.kind in _STRUCTURES and inner.plain.tag in _LINKS:
                # A pointer to the last link of a list. Its target is a member of the last structure
                # on the list, whose type is not known.
                return _ADDRESS, -1
            return _ADDRESS, self.number(type_.type, repeat=True)
        if kind in _SCALARS and facts.size:
            # A pointer to bytes or numbers usually points to an array of them.
            return _ADDRESS, self.number(target, repeat=True)
        return _ADDRESS | (_LEARN if kind == TypeKind.VOID else 0), -1

    def _of_number(self, facts: _Facts, name: str) -> int:
        """
        Determine the :class:`WordUse` of an integer.

        :param facts: Properties of its type.
        :param name: Name of the member; empty if it is not a member.
        """
        integer = facts.kind == TypeKind.INT
        if facts.typedefs & _PHYSICAL or ("pfn" in name and integer):
            return _NUMBER
        if not integer or facts.size < self.word:
            return _NOTHING
        if facts.size == self.word and (self.word == 8 or "long" in facts.plain.type_name()):
            return _ADDRESS | _NUMBER
        return _NUMBER if facts.size > self.word else _NOTHING

    def _of_structure(self, type_: Type, name: str) -> Layout:
        painter = _Painter(int(type_.size), self.word)
        tag = type_.tag
        if tag in _REGISTERS:
            return painter.layout(name)
        members = type_.members or ()
        for index, member in enumerate(members):
            if member.bit_field_size is not None or member.bit_offset % 8:
                continue
            offset = member.bit_offset // 8
            # An array without a length that is not the last member only marks an offset.
            painter.ends = index == len(members) - 1 or type_.kind == TypeKind.UNION
            self._add_member(painter, offset, member)
        if tag in _LINKS:
            painter.link()
        if tag in _CALLBACKS:
            painter.use[0] |= np.uint8(_CALLBACK)
        if tag in _MIXED:
            painter.use &= ~np.uint8(_LEARN)
        return painter.layout(name)

    def _add_member(self, painter: _Painter, offset: int, member: TypeMember) -> None:
        facts = self._facts(member.type)
        kind = facts.kind
        if facts.typedefs & _WORD_NAMES:
            painter.paint(offset, self.word, _ADDRESS | _NUMBER)
        elif kind == TypeKind.POINTER:
            layout = self._of_facts(facts)
            painter.point(offset, int(layout.use[0]), int(layout.aim[0]))
        elif kind in _STRUCTURES or kind == TypeKind.ARRAY:
            if kind == TypeKind.ARRAY and not facts.plain.length and painter.ends:
                painter.flexible = max(painter.flexible, offset)
            painter.put(offset, self._of_facts(facts))
            self._add_parts(painter, offset, member.type)
        elif facts.size:
            name = member.name or ""
            use = self._of_number(facts, name)
            if use & _NUMBER and not (facts.typedefs & _PHYSICAL or _LIKE_NUMBERS.search(name)):
                use |= _UNNAMED
            painter.paint(offset, facts.size, use)

    def _add_parts(self, painter: _Painter, offset: int, type_: Type) -> None:
        """
        Add the structures that a member consists of, nested ones included, to the painter's parts.

        :param offset: Offset of the member in the type that is assembled, in bytes.
        :param type_: Type of the member.
        """
        facts = self._facts(type_)
        plain = facts.plain
        if facts.kind == TypeKind.ARRAY:
            element = self._facts(plain.type)
            if element.kind in _STRUCTURES and element.size:
                for index in range(min(int(plain.length or 0), _MOST_PARTS)):
                    self._add_parts(painter, offset + index * element.size, plain.type)
        elif facts.kind in _STRUCTURES and facts.size:
            flat, tag = self._of_facts(facts), plain.tag
            painter.parts += [(offset + at, number) for at, number in flat.parts]
            named = tag is not None or facts.typedefs
            if named and tag not in _LINKS:
                painter.parts.append((offset, self.number(type_)))
            if tag in _HEADS:
                found = self.find(f"struct {_HEADS[tag]}")
                painter.parts += [(offset, found)] * (found >= 0)

    def _of_array(self, type_: Type, name: str) -> Layout:
        element, length = type_.type, int(type_.length or 0)
        facts = self._facts(element)
        size = facts.size
        painter = _Painter(size * length, self.word)
        if facts.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM):
            # An array of bytes can hold anything: sk_buff.cb, for example.
            use = self._of_number(facts, "")
            painter.paint_all(_ADDRESS if size == 1 else use)
        elif size * length > _MOST_WORDS * self.word:
            painter.paint_all(_ADDRESS | _NUMBER)
        elif size:
            flat = self._of_facts(facts)
            if size % self.word == 0:
                painter.use = np.tile(flat.use, length)
                painter.aim = np.tile(flat.aim, length)
            elif flat.use.any():
                painter.paint_all(_ADDRESS | _NUMBER)
        return painter.layout(name)

    # --- slab caches --------------------------------------------------------------------------

    def _of_caches(self, caches: Sequence[str], sizes: Array) -> tuple[Array, Array]:
        merged = self._merged()
        types = np.full(len(caches), -1, np.int32)
        shared = np.zeros(len(caches), bool)
        for index, name in enumerate(caches):
            shared[index] = "kmalloc" in name or name in merged
            if not shared[index]:
                types[index] = self._of_cache(name, int(sizes[index]))
        return types, shared

    def _of_cache(self, name: str, size: int) -> int:
        for prefix, element in _CACHE_ARRAYS.items():
            if name.startswith(prefix):
                return self.find(f"struct {element}", repeat=True)
        if name.partition("-")[0] == _HANDLES:
            return self.find("unsigned long")
        # Per-cgroup caches are named CACHE(ID:CGROUP) before Linux kernel commit 9855609bde03 ("mm:
        # memcg/slab: use a single set of kmem_caches for all accounted allocations") (in v5.9).
        tag = _CACHE_TYPES.get(name.partition("(")[0], name)
        number = self.find(f"struct {tag}") if tag.isidentifier() else -1
        if number < 0 or not size:
            return -1
        own = _size(self._types[number])
        if tag == name:
            # The cache was made by KMEM_CACHE(). Its objects are larger than the structure if that
            # ends with an array whose length is not declared, and smaller if the kernel leaves out
            # unused elements at the end (_TRUNCATED).
            return number if own <= size < 2 * own or name in _TRUNCATED else -1
        # The sizes must match, because other kernels may have a different structure of that name.
        return number if own <= size < own + 2 * self.word else -1

    def _merged(self) -> set[str]:
        """Return the names of caches that SLUB merged with others of the same size."""
        found: set[str] = set()
        for cache in slab_caches(self._kernel, []):
            try:
                if int(cache.refcount) > 1:
                    found.add(cache.name.string_().decode(errors="replace"))
            except DAMAGE as error:
                unless_mistaken(error)
                continue
        return found


class _Painter:
    """Assembles the layout of a type from its members."""

    def __init__(self, size: int, word: int) -> None:
        self.size, self._word = size, word
        self.use = np.zeros(size // word, np.uint8)
        self.aim = np.full(size // word, -1, np.int32)
        self.parts: list[tuple[int, int]] = []
        self.choices: set[tuple[int, int]] = set()
        self.flexible = -1
        self.ends = True

    def paint(self, offset: int, size: int, use: int) -> None:
        """Add *use* (:class:`WordUse`) to all words that overlap *size* bytes at *offset*."""
        if use and size:
            first, last = offset // self._word, -(-(offset + size) // self._word)
            mine = slice(first, last)
            if use & _ADDRESS:
                self.aim[mine][self.use[mine] & np.uint8(_ADDRESS) != 0] = -1
                self.use[mine] &= ~np.uint8(_CALLBACK)
            self.use[mine] |= np.uint8(use)

    def point(self, offset: int, use: int, aim: int) -> None:
        """
        Add a pointer at *offset*.

        :param use: :class:`WordUse` of the pointer.
        :param aim: Number of the type that it points to; -1 if unknown.
        """
        word, rest = divmod(offset, self._word)
        if rest or word >= len(self.use) or self.use[word] & _ADDRESS:
            pointer = np.array([use], np.uint8), np.array([aim], np.int32)
            self.put(offset, Layout("", self._word, *pointer))
        else:
            self.use[word] |= use
            self.aim[word] = aim

    def paint_all(self, use: int) -> None:
        self.use[:] = np.uint8(use)

    def put(self, offset: int, layout: Layout) -> None:
        """Add a member at an offset; members of a union overlap."""
        if layout.flexible >= 0 and self.ends:
            self.flexible = max(self.flexible, offset + layout.flexible)
        if not layout.use.any():
            return
        if offset % self._word:
            self.paint(offset, layout.size, _ADDRESS | _NUMBER)
            return
        first = offset // self._word
        number = min(len(layout.use), len(self.use) - first)
        if number <= 0:
            return
        use, aim = self.use[first : first + number], self.aim[first : first + number]
        new_use, new_aim = layout.use[:number], layout.aim[:number]
        before, now = use & np.uint8(1) != 0, new_use & np.uint8(1) != 0
        both = before & now
        # A word that can be a pointer to several types has no known target type.
        differ = both & (aim != new_aim)
        for at in np.flatnonzero(differ).tolist():
            found = {int(aim[at]), int(new_aim[at])} - {-1}
            self.choices |= {((first + at) * self._word, number) for number in found}
        self.choices |= {(offset + at, number) for at, number in layout.choices}
        # A word of a union is a pointer to the memmap only if it is one in all alternatives.
        everywhere = np.uint8(_MEMMAP_POINTER | _CALLBACK)
        keep = np.where(both, use & new_use, use | new_use) & everywhere
        aim[:] = np.where(differ, -1, np.where(now, new_aim, aim))
        use[:] = ((use | new_use) & ~everywhere) | keep
        use[differ] &= ~np.uint8(_LEARN)

    def link(self) -> None:
        """Mark all address words of the type as pointers to links of the same kind."""
        self.aim[:] = -1
        self.use[self.use & np.uint8(1) != 0] = _ADDRESS | _LEARN

    def layout(self, name: str) -> Layout:
        if 0 <= self.flexible < self.size:
            self.paint(self.flexible, self.size - self.flexible, _ADDRESS | _NUMBER)
        choices = sorted(self.choices)
        return Layout(
            name, self.size, self.use, self.aim, self.parts, flexible=self.flexible, choices=choices
        )


def _empty(name: str) -> Layout:
    return Layout(name, 0, np.zeros(0, np.uint8), np.zeros(0, np.int32))


def _size(type_: Type) -> int:
    """Get the size in bytes; 0 for a type without a size."""
    try:
        return int(sizeof(type_))
    except TypeError:
        return 0


def _plain(type_: Type) -> Type:
    """Strip qualifiers, and typedefs unless the underlying type has no name."""
    type_ = type_.unqualified()
    while type_.kind == TypeKind.TYPEDEF:
        inner = type_.type.unqualified()
        if inner.kind in _STRUCTURES and inner.tag is None:
            return type_
        type_ = inner
    return type_


def _typedefs(type_: Type) -> list[str]:
    """Return the names of the typedefs that *type_* resolves through, outermost first."""
    names = []
    while type_.kind == TypeKind.TYPEDEF:
        names.append(type_.name)
        type_ = type_.type
    return names


def read_types(kernel: Kernel, caches: Sequence[str], sizes: Array) -> DwarfTypes:
    """
    Get the types of *kernel*.

    :param caches: Names of the slab caches.
    :param sizes: ``object_size`` of each, in bytes: ``int64``; 0 if it has no slabs.
    """
    return DwarfTypes(kernel, caches, sizes)
