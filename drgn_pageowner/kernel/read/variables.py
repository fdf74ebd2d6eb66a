# SPDX-License-Identifier: LGPL-2.1-or-later
"""Variables of the kernel and its modules: addresses and types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from drgn import Object, ObjectAbsentError, SymbolKind

from drgn_pageowner.kernel.dump.bulk import symbol_address
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import module_regions, modules_percpu
from drgn_pageowner.kernel.linux.percpu import cpu_offset, first_chunk
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.kernel.read.types import DwarfTypes
from drgn_pageowner.model.arrays import Array

__all__ = ("VariableList", "find_variables")


@dataclass
class VariableList:
    """Table of variables; a per-CPU variable has one row for each CPU."""

    names: list[str] = field(default_factory=list)
    """drgn expressions: ``prog["init_task"]``, ``per_cpu(prog["runqueues"], 1)``."""
    type: list[int] = field(default_factory=list)
    """Type numbers in :class:`DwarfTypes`."""
    address: list[int] = field(default_factory=list)
    """Virtual addresses."""
    size: list[int] = field(default_factory=list)
    """Sizes in bytes."""

    def columns(self) -> tuple[Array, Array, Array]:
        """Return type (``int32``), address (``uint64``) and size (``int64``) as arrays."""
        return (
            np.array(self.type, np.int32),
            np.array(self.address, np.uint64),
            np.array(self.size, np.int64),
        )


def find_variables(kernel: Kernel, types: DwarfTypes) -> VariableList:
    """
    Find every variable whose type the debugging symbols have.

    drgn looks variables up by name, and finds only one of several static variables with the same
    name.
    """
    found = VariableList()
    per_cpu = _PerCpuPlaces(kernel)
    regions = module_regions(kernel)
    for name, address, size in _objects(kernel):
        variable, text = _variable(kernel, name, address, regions)
        if variable is None:
            continue
        number = types.number(variable.type_)
        copies = list(per_cpu.copies(address))
        for cpu, place in copies:
            found.names.append(f"per_cpu({text}, {cpu})")
            found.address.append(place)
        if not copies:
            found.names.append(text)
            found.address.append(address)
        found.type += [number] * max(len(copies), 1)
        found.size += [size] * max(len(copies), 1)
    return found


def _variable(
    kernel: Kernel, name: str, address: int, regions: list[tuple[str, int, int]]
) -> tuple[Object | None, str]:
    """
    Find the variable *name* at *address*.

    :return: The variable, or ``None`` if drgn does not find it; and the drgn expression that was
        tried last.
    """
    text = f'prog["{name}"]'
    found = _at(kernel, name, address, None)
    if found is None:
        # The main file of a module usually has the module's name.
        files = [f"{module}.c" for module, start, end in regions if start <= address < end]
        for file in files:
            found = _at(kernel, name, address, file)
            text = f'prog.variable("{name}", "{file}")'
    return found, text


def _at(kernel: Kernel, name: str, address: int, file: str | None) -> Object | None:
    try:
        found = kernel.prog.variable(name, file)
        return found if found.address_ == address else None
    except (LookupError, ObjectAbsentError):
        return None


def _objects(kernel: Kernel) -> Iterator[tuple[str, int, int]]:
    """Return name, address and size of every data symbol."""
    try:
        symbols = kernel.prog.symbols()
    except DAMAGE as error:
        unless_mistaken(error)
        return
    for symbol in symbols:
        if symbol.kind == SymbolKind.OBJECT and symbol.size:
            yield symbol.name, symbol.address, symbol.size


class _PerCpuPlaces:
    """Finds the addresses of the copies of per-CPU variables."""

    def __init__(self, kernel: Kernel) -> None:
        self._start = symbol_address(kernel.prog, "__per_cpu_start") or 0
        self._end = symbol_address(kernel.prog, "__per_cpu_end") or 0
        self._units = first_chunk(kernel)[0]
        self._modules = modules_percpu(kernel)
        self._offsets = []
        for cpu in possible_cpus(kernel):
            try:
                self._offsets.append((cpu, cpu_offset(kernel, cpu)))
            except DAMAGE as error:
                unless_mistaken(error)
                continue
        self._mask = (1 << 8 * kernel.word.itemsize) - 1

    def copies(self, address: int) -> Iterator[tuple[int, int]]:
        """
        Yield the CPU and the address of every copy of a per-CPU variable.

        Nothing is yielded if the variable at *address* is not a per-CPU variable.
        """
        if self._start <= address < self._end:
            # See cpu_variable() of kernel/linux/percpu.py.
            for cpu, unit in self._units:
                yield cpu, unit + address - self._start & self._mask
        elif any(start <= address < end for start, end in self._modules):
            for cpu, offset in self._offsets:
                yield cpu, address + offset & self._mask
