# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find the symbols of PCs in the kernel's kallsyms tables, with the same result as ``%pS``.

The tables are copied from the dump once, as NumPy arrays and bytes. A name is decoded only when it
is needed.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from drgn import FaultError, Object, Program, Symbol, SymbolBinding, SymbolKind

from drgn_pageowner.kernel.dump.bulk import (
    byte_order,
    enumerators,
    find_object,
    find_type,
    gather,
    has_member,
    read_array,
    read_bulk,
    read_word,
    struct_dtype,
    symbol_address,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    every_entry,
    name_of,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel, once_per_reading
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.translate import image_range
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "Kallsyms",
    "load_kallsyms",
    "module_names",
    "module_regions",
    "modules_percpu",
    "name_module_symbols",
)

_SHN_UNDEF = 0
# Maximum plausible number of symbols; a kernel has about 200,000.
_MOST_SYMBOLS = 1 << 24
# KSYM_NAME_LEN since Linux kernel commit b8a94bfb3395 ("kallsyms: increase maximum kernel symbol
# length to 512") (in v6.1); 128 before.
_LONGEST_NAME = 512
# The names of the largest module (amdgpu) take 4 MiB; larger sizes are garbage.
_MOST_STRINGS = 64 << 20
# The prefixes of is_mapping_symbol() in include/linux/module_symbol.h.
_MAPPING_SYMBOLS = (b".L", b"L0", b"$")


@dataclass(frozen=True)
class _ModuleSymbols:
    name: str
    ranges: tuple[tuple[int, int, int], ...]
    """``(base, end, bound)`` of each memory region of the module: virtual addresses. A symbol in
    the region ends at *bound* at the latest."""
    values: Array
    """Addresses of the named symbols: ``uint64``, ascending."""
    at: Array
    """Offset of each symbol's name in :attr:`strings`: ``int64``."""
    strings: bytes = b""
    """String table of the module."""
    longest: int = _LONGEST_NAME
    """Size of the buffer that the kernel copies a name to, in bytes; longer names are cut off."""
    own_regions: bool = False
    """Whether the kernel finds only symbols in the same memory region as the PC."""
    word_mask: int = (1 << 64) - 1
    """The largest value of an ``unsigned long``."""

    def frame(self, pc: int) -> Frame | None:
        """
        Find the symbol of *pc*, as ``find_kallsyms_symbol()`` of kernel/module/kallsyms.c does.
        """
        region = next((r for r in self.ranges if r[0] <= pc < r[1]), None)
        following = int(np.searchsorted(self.values, np.uint64(pc), "right"))
        if region is None or following == 0:
            return None
        base, _, bound = region
        value = int(self.values[following - 1])
        if self.own_regions and value < base:
            return None
        next_value = int(self.values[following]) if following < len(self.values) else bound
        # If several symbols have the same address, the kernel takes the first one in the table.
        first = int(np.searchsorted(self.values, np.uint64(value), "left"))
        name = _string(self.strings, int(self.at[first]), self.longest)
        if next_value > bound:
            next_value = bound
        # If the bound is before the symbol, the kernel prints the negative size as a huge number.
        return Frame(pc, name, pc - value, (next_value - value) & self.word_mask, self.name)


def _string(strings: bytes, at: int, longest: int) -> str:
    """
    Get the string at the offset *at* of a string table.

    :param longest: Size of the buffer that the kernel copies the string to, in bytes. A longer
        string is cut off, as by ``strscpy()``.
    """
    return strings[at : at + longest - 1].split(b"\0", 1)[0].decode(errors="backslashreplace")


class _CoreSymbols:
    """Symbol table of the kernel image, without modules."""

    def __init__(
        self,
        addresses: Array,
        names: bytes | bytearray,
        markers: Array,
        tokens: list[bytes],
        stext: int,
        longest: int,
    ) -> None:
        self.addresses = addresses
        self._names = names
        self._markers = markers
        self._tokens = tokens
        self._stext = stext
        self._longest = longest

    def _name(self, index: int) -> str:
        position = int(self._markers[index >> 8])
        names = self._names
        # Skip up to 255 names, without a function call for each.
        for _ in range(index & 0xFF):
            length = names[position]
            if length & 0x80:
                position += (length & 0x7F | names[position + 1] << 7) + 2
            else:
                position += length + 1
        total, header = self._length(position)
        # As in kallsyms_expand_symbol() of kernel/kallsyms.c, which stops when its buffer is full.
        text = bytearray()
        for byte in names[position + header : position + total]:
            text += self._tokens[byte]
            if len(text) > self._longest:
                break
        if not text:
            raise IndexError(f"symbol {index} has no name")
        # The first character is the symbol's type.
        return bytes(text[1 : self._longest]).decode(errors="backslashreplace")

    def _length(self, position: int) -> tuple[int, int]:
        """
        Decode the length of the compressed name at an offset of the table of names.

        :return: Number of bytes to the next name, and number of bytes of the length itself.
        """
        length = self._names[position]
        # Linux kernel commit 73bbb94466fd ("kallsyms: support "big" kernel symbols") (in v6.1):
        # two bytes if the first has its top bit set. Before, no symbol was that long.
        if length & 0x80:
            return (length & 0x7F | self._names[position + 1] << 7) + 2, 2
        return length + 1, 1

    def frame(self, pc: int) -> Frame | None:
        """Find the symbol of *pc*, as ``get_symbol_pos()`` of kernel/kallsyms.c does."""
        addresses = self.addresses
        index = int(np.searchsorted(addresses, np.uint64(pc), "right")) - 1
        if index < 0 or pc < self._stext:
            return None
        start = addresses[index]
        following = int(np.searchsorted(addresses, start, "right"))
        # The table ends with symbols at the end of the image, such as _end.
        if following == len(addresses):
            return None
        end = int(addresses[following])
        # If several symbols have the same address, take the first one.
        try:
            name = self._name(int(np.searchsorted(addresses, start, "left")))
        except IndexError:
            # The tables are damaged.
            return None
        return Frame(pc, name, pc - int(start), end - int(start), None)


class Kallsyms:
    """``Symbolizer`` that uses the symbol tables of the kernel and its modules."""

    def __init__(
        self,
        core: _CoreSymbols | None,
        modules: list[_ModuleSymbols],
        called: Callable[[list[int]], list[bool]] | None = None,
    ) -> None:
        """
        :param called: Function that determines :attr:`Frame.called
            <drgn_pageowner.model.stacks.Frame.called>` of PCs; ``None`` if it cannot be determined.
        """
        self._core = core
        self._called = called
        spans = sorted((base, end, module) for module in modules for base, end, _ in module.ranges)
        self._starts = [span[0] for span in spans]
        self._spans = spans

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        Find the symbol of each PC.

        :param pcs: ``uint64``, shape ``(n,)``.
        :return: A frame for each PC, which has no name if no symbol is found.
        """
        frames = [self._frame(pc) for pc in pcs.tolist()]
        if self._called is not None:
            inside = [number for number, frame in enumerate(frames) if frame.module is not None]
            called = self._called([frames[number].pc for number in inside])
            for number, value in zip(inside, called, strict=True):
                if not value:
                    frames[number] = frames[number]._replace(called=False)
        return frames

    def _frame(self, pc: int) -> Frame:
        frame = None
        index = bisect_right(self._starts, pc) - 1
        if index >= 0 and pc < self._spans[index][1]:
            frame = self._spans[index][2].frame(pc)
        elif self._core is not None:
            frame = self._core.frame(pc)
        return frame or Frame(pc, None, 0, 0, None)


def _core_symbols(kernel: Kernel) -> _CoreSymbols | None:
    where = {
        name: symbol_address(kernel.prog, "kallsyms_" + name)
        for name in (
            "num_syms",
            "names",
            "markers",
            "token_table",
            "token_index",
            "offsets",
            "addresses",
            "relative_base",
        )
    }
    needed = [
        where[name] for name in ("num_syms", "names", "markers", "token_table", "token_index")
    ]
    if None in needed:
        return None
    num_syms, names_at, markers_at, table_at, index_at = (address or 0 for address in needed)
    order = byte_order(kernel.prog)
    count = kernel.prog.read_u32(num_syms)
    if not 0 < count < _MOST_SYMBOLS:
        return None
    addresses = _core_addresses(kernel, where, count)
    if addresses is None:
        return None

    # unsigned long before Linux kernel commit 80ffbaa5b1bd ("kallsyms: reduce size a little on
    # 64-bit") (in v4.20), unsigned int since.
    marker_count = (count + 255) >> 8
    markers = read_array(kernel.prog, markers_at, np.dtype(f"{order}u4"), marker_count)
    if marker_count > 1 and markers[1] == 0:
        markers = read_array(kernel.prog, markers_at, kernel.word, marker_count)
    longest = _name_length(kernel)
    # The last marker is the offset of the last group of names, which has at most 256 names. The
    # table of names ends before the kernel image does.
    size = min(int(markers.max()), count * longest) + 256 * (longest + 2)
    image = image_range(kernel)
    room = image[1] - names_at if image is not None and image[0] <= names_at < image[1] else size
    names = read_bulk(kernel.prog, names_at, min(size, room, _MOST_STRINGS)).data
    index = read_array(kernel.prog, index_at, np.dtype(f"{order}u2"), 256)
    table = bytes(read_bulk(kernel.prog, table_at, int(index.max()) + 256).data)
    tokens = [table[at : at + longest].split(b"\0", 1)[0] for at in index.tolist()]
    stext = symbol_address(kernel.prog, "_stext") or int(addresses[0])
    return _CoreSymbols(addresses, names, markers, tokens, stext, longest)


def _name_length(kernel: Kernel) -> int:
    """Get ``KSYM_NAME_LEN``, the maximum size of a symbol's name with its NUL, in bytes."""
    type_ = find_type(kernel.prog, "struct kallsym_iter")
    if type_ is None or not has_member(type_, "name"):
        return _LONGEST_NAME
    length = type_.member("name").type.length
    return length if length is not None and 0 < length <= _LONGEST_NAME else _LONGEST_NAME


def _core_addresses(kernel: Kernel, where: dict[str, int | None], count: int) -> Array | None:
    offsets_at = where["offsets"]
    if offsets_at is None:
        if where["addresses"] is None:
            return None
        return read_array(kernel.prog, where["addresses"], kernel.word, count).astype(np.uint64)
    offsets = read_array(kernel.prog, offsets_at, np.dtype(f"{byte_order(kernel.prog)}i4"), count)
    if where["relative_base"] is None:
        # An offset is relative to its own address since Linux kernel commit a081b5789255
        # ("kallsyms: Get rid of kallsyms relative base") (in v7.0).
        places = np.uint64(offsets_at) + np.arange(count, dtype=np.uint64) * np.uint64(4)
        return places + offsets.astype(np.int64).view(np.uint64)
    base = read_word(kernel.prog, where["relative_base"])
    if (offsets < 0).any():
        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, from Linux kernel commit 2213e9a66bb8 ("kallsyms: add
        # support for relative offsets in kallsyms address table") (in v4.6) to v6.14: positive
        # offsets are absolute addresses, negative ones are relative to the base. Without this
        # option, offsets are unsigned and never have their top bit set, because no kernel image is
        # that large.
        relative = np.uint64(base - 1) - offsets.astype(np.int64).view(np.uint64)
        return np.where(offsets >= 0, offsets.astype(np.uint64), relative)
    return np.uint64(base) + offsets.astype(np.uint64)


def _own_regions(kernel: Kernel) -> bool:
    """
    Return whether ``find_kallsyms_symbol()`` finds only symbols in the memory region of the PC.

    It does since Linux kernel commit 0e9f090a4e9b ("module/kallsyms: fix nextval for data symbol
    lookup") (in v7.3, backported to v7.2.y). Before, it found any symbol at a lower address than
    the PC, and took the end of the module's text as the end of the last symbol. Types and symbols
    did not change, so this is determined from the version.
    """
    return kernel.vmcoreinfo.release[:2] >= (7, 2)


def _module_ranges(module: Object, own_regions: bool) -> tuple[tuple[int, int, int], ...]:
    """
    Get the memory regions of a module: ``(base, end, bound)``, as in :class:`_ModuleSymbols`.

    :param module: ``struct module *``
    :param own_regions: Whether the symbols of a region end at its end; otherwise, they end at the
        end of the module's text.
    """
    type_ = module.type_.type
    ranges: list[tuple[int, int, int]] = []
    if has_member(type_, "mem"):
        # module.mem was added in Linux kernel commit ac3b43283923 ("module: replace module_layout
        # with module_memory") (in v6.4).
        regions = [(int(region.base), int(region.size)) for region in module.mem]
        if own_regions:
            return tuple(
                (base, base + size, base + size) for base, size in regions if base and size
            )
        types = enumerators(module.prog_, "enum mod_mem_type")
        text, init = types.get("MOD_TEXT", 0), types.get("MOD_INIT_TEXT", 4)
        found = []
        for number, (base, size) in enumerate(regions):
            # The last three regions are those for which mod_mem_type_is_init() is true.
            end = sum(regions[text if number < init else init])
            if base and size:
                found.append((base, base + size, end))
        return tuple(found)
    if has_member(type_, "core_layout"):
        # Linux kernel commit 7523e4dc5057 ("module: use a structure to encapsulate layout.")
        # (in v4.5). For find_kallsyms_symbol() the last symbol ends with the text.
        for name in ("core_layout", "init_layout"):
            layout = getattr(module, name)
            ranges.append((int(layout.base), int(layout.size), int(layout.text_size)))
    else:
        for name in ("core", "init"):
            base = int(getattr(module, f"module_{name}"))
            size, text = (int(getattr(module, name + end)) for end in ("_size", "_text_size"))
            ranges.append((base, size, text))
    return tuple((base, base + size, base + bound) for base, size, bound in ranges if base and size)


def _module_symbols(kernel: Kernel, module: Object) -> _ModuleSymbols:
    name = name_of(module.name)
    own_regions = _own_regions(kernel)
    ranges = _module_ranges(module, own_regions)
    empty = _ModuleSymbols(name, ranges, np.zeros(0, np.uint64), np.zeros(0, np.int64))
    # struct mod_kallsyms since Linux kernel commit 8244062ef1e5 ("modules: fix longstanding
    # /proc/kallsyms vs module insertion race.") (in v4.5).
    owner = module.kallsyms if has_member(module.type_.type, "kallsyms") else module
    if not owner:
        return empty
    count = int(owner.num_symtab)
    if not 0 < count < 1 << 22:
        return empty
    sym_type = owner.symtab.type_.type
    dtype = struct_dtype(kernel.prog, sym_type, ("st_name", "st_value", "st_shndx"))
    try:
        symtab = read_array(kernel.prog, int(owner.symtab), dtype, count)[1:]
    except FaultError:
        return empty
    strings_at = int(owner.strtab)
    named = symtab[(symtab["st_shndx"] != _SHN_UNDEF) & (symtab["st_name"] != 0)]
    # The table cannot extend past the memory region of the module that contains it.
    rooms = [end - strings_at for start, end, _ in ranges if start <= strings_at < end]
    room = min([*rooms, _MOST_STRINGS])
    named = named[named["st_name"] < room]
    if not len(named):
        return empty
    longest = _name_length(kernel)
    size = min(int(named["st_name"].max()) + longest, room)
    strings = bytes(read_bulk(kernel.prog, strings_at, size).data)
    named = named[_has_name(strings, named["st_name"].astype(np.int64))]
    values = named["st_value"].astype(np.uint64)
    by_value = np.argsort(values, kind="stable")
    word_mask = (1 << 8 * kernel.word.itemsize) - 1
    at = named["st_name"][by_value].astype(np.int64)
    return _ModuleSymbols(
        name, ranges, values[by_value], at, strings, longest, own_regions, word_mask
    )


def _has_name(strings: bytes, at: Array) -> Array:
    """
    Return which symbols have a name and are not mapping symbols.

    :param strings: String table of the module.
    :param at: Offsets of the names in the string table: ``int64``.
    :return: ``bool``: whether the name is not empty and ``is_mapping_symbol()`` is false for it.
    """
    padded = np.frombuffer(strings + bytes(2), np.uint8)
    first, second = padded[at], padded[at + 1]
    result: Array = first != 0
    for prefix in _MAPPING_SYMBOLS:
        same = first == prefix[0]
        result &= ~(same & (second == prefix[1]) if len(prefix) > 1 else same)
    return result


def module_names(kernel: Kernel) -> list[str]:
    """Get the names of the loaded modules."""
    return [_module_name(module) for module in _modules(kernel)]


def _module_name(module: Object) -> str:
    try:
        return name_of(module.name)
    except DAMAGE as error:
        unless_mistaken(error)
        return f"?{int(module):#x}"


def module_regions(kernel: Kernel) -> list[tuple[str, int, int]]:
    """Get ``(name, start, end)`` of every memory region of the loaded modules."""
    regions = []
    for module in _modules(kernel):
        module_name = _module_name(module)
        with kernel.tolerate("the memory of module {} is unknown", of=module_name, gap=True):
            name = name_of(module.name)
            regions += [(name, start, end) for start, end, _ in _module_ranges(module, True)]
    return regions


def modules_percpu(kernel: Kernel) -> list[tuple[int, int]]:
    """
    Get the areas for the per-CPU variables of modules: ``(start, end)``, as per-CPU pointers.

    Modules without per-CPU variables have no area.
    """
    found = []
    for module in _modules(kernel):
        with kernel.tolerate(f"the per-CPU variables of module {_module_name(module)} are unknown"):
            # Without CONFIG_SMP, struct module has no such member.
            if has_member(module.type_.type, "percpu") and module.percpu:
                start = int(module.percpu)
                found.append((start, start + int(module.percpu_size)))
    return found


def _modules(kernel: Kernel) -> list[Object]:
    """Get the ``struct module *`` of every loaded module."""
    return [
        Object(kernel.prog, "struct module *", value=address)
        for address in _module_addresses(kernel)
    ]


@once_per_reading
def _module_addresses(kernel: Kernel) -> tuple[int, ...]:
    head = find_object(kernel.prog, "modules")
    if head is None:
        return ()
    subject = "the list of modules"
    modules = every_entry("struct module", head.address_of_(), "list", subject, kernel.gaps)
    return tuple(int(module) for module in modules)


@once_per_reading
def _symbol_tables(kernel: Kernel) -> tuple[_CoreSymbols | None, list[_ModuleSymbols]]:
    """
    Copy the symbol tables of the kernel and its modules from the dump.

    If a table cannot be read, the PCs of that module or of the kernel image have no names.
    """
    core = None
    with kernel.tolerate("the kernel's symbols cannot be read: its functions have no names"):
        core = _core_symbols(kernel)
    modules = []
    for module in _modules(kernel):
        name = _module_name(module)
        with kernel.tolerate("the symbols of module {} cannot be read: it has no names", of=name):
            modules.append(_module_symbols(kernel, module))
    return core, modules


def load_kallsyms(kernel: Kernel) -> Kallsyms:
    """
    Return a symbolizer that uses the symbol tables of the kernel and its modules.

    The tables are copied once. The symbolizer reads code, so it refers to the program; the program
    keeps the tables only, because such a cycle would never be freed.
    """
    core, modules = _symbol_tables(kernel)
    return Kallsyms(core, modules, functools.partial(_called, kernel))


def _called(kernel: Kernel, pcs: list[int]) -> list[bool]:
    """Return whether the instruction before each of *pcs* is a call; true if unknown."""
    arch = arch_of(kernel)
    size = arch.call_size
    if not size or not pcs:
        return [True] * len(pcs)
    before = np.array(pcs, np.uint64) - np.uint64(size)
    found, known = gather(kernel.prog, before, np.dtype([("code", np.uint8, (size,))]))
    result: list[bool] = (arch.calls(found["code"]) | ~known).tolist()
    return result


_FINDER = "pageowner modules"


def name_module_symbols(kernel: Kernel) -> None:
    """
    Register a symbol finder with drgn for modules without debugging symbols.

    It uses the modules' symbol tables in the dump, and is called after all other symbol finders.
    """
    prog = kernel.prog
    if _FINDER in prog.registered_symbol_finders():
        return

    def find(_: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
        if address is None:
            return []
        [frame] = load_kallsyms(kernel.reading()).symbolize(np.array([address], np.uint64))
        if frame.name is None or frame.module is None or name not in (None, frame.name):
            return []
        return [
            Symbol(
                frame.name, address - frame.offset, frame.size, SymbolBinding.GLOBAL,
                SymbolKind.FUNC,
            )
        ]  # fmt: skip

    prog.register_symbol_finder(_FINDER, find, enable_index=-1)
