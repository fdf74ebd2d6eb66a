# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulate damage of a dump: changed bytes, and missing memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import drgn
from drgn import FaultError

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.translate import (
    direct_map,
    direct_map_end,
    image_range,
    kernel_phys,
)


class Patch(NamedTuple):
    """Bytes that a dump should have at a virtual address."""

    address: int
    data: bytes
    """The bytes; if :attr:`missing`, only their number is used."""
    missing: bool = False
    """Whether the bytes should be missing."""
    what: str = ""
    """Description for messages."""

    def __str__(self) -> str:
        value = f"-{len(self.data)}" if self.missing else self.data.hex()
        return f"{self.address:#x}={value}"

    @classmethod
    def parse(cls, text: str) -> Patch:
        """The inverse of ``str()``."""
        address, _, value = text.partition("=")
        if value.startswith("-"):
            return cls(int(address, 16), bytes(int(value[1:])), True)
        return cls(int(address, 16), bytes.fromhex(value))


def overlay(prog: drgn.Program, address: int, data: bytes, physical: bool = False) -> None:
    """Make *prog* read *data* at the virtual (or physical) *address*."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return data[offset : offset + count]

    prog.add_memory_segment(address, len(data), read, physical)


def hole(prog: drgn.Program, address: int, size: int, physical: bool = False) -> None:
    """Make reads of *prog* at the virtual (or physical) *address* fail."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not in the dump", address)

    prog.add_memory_segment(address, size, read, physical)


def apply(prog: drgn.Program, patches: Iterable[Patch]) -> None:
    """Apply *patches* to *prog*, at every address of their memory."""
    # Find all addresses first, because damaged page tables cannot be walked.
    aliases = [(patch, _aliases(prog, patch)) for patch in patches]
    for patch, addresses in aliases:
        for address, physical in addresses:
            if patch.missing:
                hole(prog, address, len(patch.data), physical)
            else:
                overlay(prog, address, patch.data, physical)
    prog.cache.clear()


def _aliases(prog: drgn.Program, patch: Patch) -> list[tuple[int, bool]]:
    """Return ``(address, physical)`` of the memory of *patch*: as given, physical, direct map,
    image."""
    found = {(patch.address, False)}
    try:
        phys = kernel_phys(Kernel(prog), patch.address)
    except FaultError:
        return sorted(found)
    found.add((phys, True))
    if direct_map(Kernel(prog)) + phys < direct_map_end(Kernel(prog)):
        found.add((direct_map(Kernel(prog)) + phys, False))
    image = image_range(Kernel(prog))
    if image is not None:
        start = kernel_phys(Kernel(prog), image[0])
        if start <= phys < start + image[1] - image[0]:
            found.add((image[0] + phys - start, False))
    return sorted(found)
