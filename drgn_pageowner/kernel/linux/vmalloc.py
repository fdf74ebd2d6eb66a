# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the areas that vmalloc maps (task stacks and modules, too), and the stacks of tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from drgn import FaultError, Object, sizeof

from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    find_type,
    has_member,
    read_array,
    symbol_address,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    every_entry,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms, module_regions
from drgn_pageowner.kernel.linux.memmap import member
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.sections import memmap_pfns
from drgn_pageowner.kernel.linux.tasks import comm_of, every_task
from drgn_pageowner.kernel.linux.topology import online_cpus
from drgn_pageowner.kernel.linux.translate import kernel_pfns
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Area, AreaKind
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.units import counted

__all__ = ("TaskStack", "VmapAreas", "read_vmap_areas", "task_stacks", "thread_size")

# VM_MAP of include/linux/vmalloc.h: a macro, so it is not in DWARF; unchanged since Linux kernel
# commit 1da177e4c3f4 ("Linux-2.6.12-rc2"). It marks areas made by vmap(), whose array of pages may
# have been freed by the caller.
_VM_MAP = 0x4
# VM_ALLOC of include/linux/vmalloc.h, which is unchanged as well. An area with this flag that has
# no array of pages is a chunk of per-CPU memory (pcpu_get_vm_areas()).
_VM_ALLOC = 0x2
_MOST_NODES = 4096
# Functions that may be recorded as the caller of vmalloc for the memory of a module. They depend on
# the kernel version, and on the functions that the compiler inlined.
_MODULE_LOADERS = ("module_alloc", "module_memory_alloc", "move_module", "layout_and_allocate",
                   "load_module", "execmem_", "__execmem_")  # fmt: skip


@dataclass(frozen=True)
class TaskStack:
    """Stack of a task, and the task's registers if it was running."""

    pid: int
    comm: str
    start: int
    """Lowest virtual address of the stack."""
    size: int
    """Size of the stack, in bytes."""
    live: int
    """The lowest address in use: the stack pointer, or :attr:`start` if the stack pointer is
    unknown."""
    registers: tuple[int, ...] = ()
    """Values of the registers of a running task; empty for other tasks, or if unknown."""


@dataclass
class VmapAreas:
    """Areas that vmalloc maps, and the structures of vmalloc that refer to these areas."""

    areas: list[Area]
    bookkeeping: Array
    """``uint64``, ascending: addresses of every ``struct vmap_area``, ``struct vm_struct`` and
    array of pages. These refer to every area, whether or not the area is in use."""
    left: list[int]
    """Start addresses of areas that were allocated for a module, but belong to no loaded module."""


@once
def thread_size(kernel: Kernel) -> int:
    """Get ``THREAD_SIZE``, in bytes."""
    # union thread_union { struct task_struct task; unsigned long stack[THREAD_SIZE/sizeof(long)]; }
    union = find_type(kernel.prog, "union thread_union")
    if union is not None and union.is_complete():
        # The type is complete if KASAN or the architecture uses it; "stack" is an array.
        return int(sizeof(union.member("stack").type))
    # Symbols of INIT_TASK_DATA() in the linker script, renamed in Linux kernel commit 8f69cba096b5
    # ("x86: Rename __{start,end}_init_task to __{start,end}_init_stack") (in v6.10).
    for name in ("init_stack", "init_task"):
        start = symbol_address(kernel.prog, f"__start_{name}")
        end = symbol_address(kernel.prog, f"__end_{name}")
        if start is not None and end is not None and end > start:
            return end - start
    return 4 * kernel.page_size


def task_stacks(kernel: Kernel, problems: list[str]) -> list[TaskStack]:
    """
    Get the stack of every task, including idle tasks.

    :param problems: List of messages, to which a line is added if tasks cannot be read.
    """
    size = thread_size(kernel)
    found = []
    seen: set[int] = set()
    running = _running(kernel)
    lost = 0
    for task in _tasks(kernel, problems):
        try:
            stack = _stack_of(kernel, task, size, int(task) in running)
        except DAMAGE as error:
            unless_mistaken(error)
            lost += 1
            continue
        # A stack consists of whole pages; other sizes are garbage.
        if stack.start and stack.start % kernel.page_size == 0 and stack.start not in seen:
            seen.add(stack.start)
            found.append(stack)
    if lost:
        problems.append(f"stacks are unknown: {counted(lost, 'task')} cannot be read")
    return found


def _stack_of(kernel: Kernel, task: Object, size: int, running: bool) -> TaskStack:
    address = int(task.stack)
    live = address
    registers: tuple[int, ...] = ()
    if running:
        live, registers = _of_running(kernel, task, address, size)
    else:
        pointer = _stack_pointer(kernel, task)
        if address <= pointer < address + size:
            live = pointer
    return TaskStack(int(task.pid), comm_of(task), address, size, live, registers)


def _tasks(kernel: Kernel, problems: list[str]) -> list[Object]:
    tasks = [kernel.prog["init_task"].address_of_(), *every_task(kernel, problems)]
    return tasks + [prog_task for prog_task in _idle(kernel) if prog_task]


def _idle(kernel: Kernel) -> list[Object]:
    with kernel.tolerate("the idle tasks cannot be read: their stacks are unknown", gap=True):
        return [cpu_variable(kernel, "runqueues", cpu).idle.read_() for cpu in online_cpus(kernel)]
    return []


def _running(kernel: Kernel) -> set[int]:
    with kernel.tolerate("the running tasks are unknown, and with them their registers", gap=True):
        return {int(cpu_variable(kernel, "runqueues", cpu).curr) for cpu in online_cpus(kernel)}
    return set()


def _stack_pointer(kernel: Kernel, task: Object) -> int:
    """Get the saved stack pointer of a task that is not running; 0 if its location is unknown."""
    path = arch_of(kernel).stack_pointer
    return int(member(task.thread, path)) if has_member(task.thread.type_, path) else 0


def _of_running(
    kernel: Kernel, task: Object, address: int, size: int
) -> tuple[int, tuple[int, ...]]:
    """
    Get the stack pointer and the registers of a running task, from the notes of the dump.

    :param address: Lowest virtual address of the task's stack.
    :param size: Size of the stack, in bytes.
    :return: The stack pointer, or *address* if it is unknown; and the values of the registers.
    """
    try:
        frame = kernel.prog.stack_trace(task)[0]
        registers = {name: int(value) for name, value in frame.registers().items()}
    except Exception:
        # Older versions of drgn raise plain Exception for unknown unwinding data.
        return address, ()
    pointer = frame.sp
    live = pointer if address <= pointer < address + size else address
    return live, tuple(registers.values())


def read_vmap_areas(
    kernel: Kernel,
    pages: Pages,
    stacks: list[TaskStack],
    problems: list[str],
) -> VmapAreas:
    """
    Read every area of vmalloc that maps pages.

    :param stacks: Stacks of tasks, to recognize the areas that are stacks.
    :param problems: List of messages, to which a line is added if areas cannot be read.
    """
    owners = {stack.start: f"{stack.comm} (pid {stack.pid})" for stack in stacks}
    modules = [(start, end, name) for name, start, end in module_regions(kernel)]
    size = pages.facts.page_size
    stack_size = thread_size(kernel)
    # Start, size, kind and name of each area, and its rows; None for those that pointers has.
    found: list[tuple[int, int, AreaKind, str, Array | None]] = []
    pointers: list[Array] = []
    callers = _Callers(kernel)
    bookkeeping: list[int] = []
    left: list[int] = []
    lost = 0
    for vmap in _vmap_areas(kernel, problems):
        bookkeeping.append(int(vmap))
        try:
            vm = vmap.vm.read_()
            if vm:
                bookkeeping.append(int(vm))
            if not vm or (not vm.pages and int(vm.flags) & (_VM_MAP | _VM_ALLOC)):
                start, end = int(vmap.va_start), int(vmap.va_end)
                # The area has no list of pages, so ask the page tables which pages it maps. A
                # mapping of memory is not larger than memory; a larger one is garbage or maps a
                # device.
                if 0 < (end - start) // size <= len(pages):
                    pfns = kernel_pfns(kernel, start, (end - start) // size)
                    found.append((start, end - start, AreaKind.VMAP, "", _rows(pages, pfns)))
                continue
            number = int(vm.nr_pages)
            start = int(vm.addr)
            if not vm.pages or not 0 < number <= len(pages) or start + number * size > 1 << 64:
                continue
            bookkeeping.append(int(vm.pages))
            mine = _pointers(kernel, int(vm.pages), number)
            if start in owners:
                kind, name = AreaKind.STACK, owners[start]
            else:
                kind, name = _use_of_area(callers, vm, start, number * size, modules, stack_size)
            found.append((start, number * size, kind, name, None))
            pointers.append(mine)
            if kind == AreaKind.VMALLOC and callers.of(vm).startswith(_MODULE_LOADERS):
                left.append(start)
        except DAMAGE as error:
            unless_mistaken(error)
            lost += 1
    if lost:
        problems.append(f"{lost} vmalloc areas cannot be read: what they map is unknown")
    listed = iter(_rows_of_each(kernel, pages, pointers))
    areas = [
        Area(start, length, kind, rows if rows is not None else next(listed), name)
        for start, length, kind, name, rows in found
    ]
    return VmapAreas(
        areas,
        np.array(sorted(bookkeeping), np.uint64),
        left,
    )


def _rows_of_each(kernel: Kernel, pages: Pages, pointers: list[Array]) -> list[Array]:
    """
    Get the rows of the pages of each area.

    :param pointers: Its list of ``struct page *``: ``uint64``.
    """
    if not pointers:
        return []
    rows = _rows(pages, memmap_pfns(kernel, np.concatenate(pointers)))
    return np.split(rows, np.cumsum([len(mine) for mine in pointers])[:-1])


def _rows(pages: Pages, pfns: Array) -> Array:
    """Get the rows of *pfns* in *pages*; -1 for a PFN that is -1 or is no page."""
    result: Array = np.where(pfns >= 0, pages.rows(np.maximum(pfns, 0)), -1)
    return result


def _vmap_areas(kernel: Kernel, problems: list[str]) -> list[Object]:
    """Get the ``struct vmap_area *`` of every area in use."""
    type_, subject = "struct vmap_area", "the list of vmalloc areas"
    # One list for each node since Linux kernel commit d093602919ad ("mm: vmalloc: remove global
    # vmap_area_root rb-tree") (in v6.9). The number of nodes is that of possible CPUs, but at most
    # 128: 8f33a2ff3072 ("mm: vmalloc: set nr_nodes based on CPUs in a system") (in v6.9).
    lone = find_object(kernel.prog, "single", "mm/vmalloc.c")
    if lone is None:
        head = kernel.prog["vmap_area_list"].address_of_()
        return every_entry(type_, head, "list", subject, problems)
    # On kernels that always have a single list (32-bit, or without CONFIG_SMP), the compiler may
    # have optimized the pointer away.
    nodes, number = find_object(kernel.prog, "vmap_nodes"), 1
    if nodes is None:
        nodes = lone.address_of_()
    else:
        try:
            nodes, number = nodes.read_(), int(kernel.prog["nr_vmap_nodes"])
        except FaultError as error:
            problems.append(f"{subject} cannot be read ({error}): some areas may be unknown")
            return []
    if not 0 < number <= _MOST_NODES:
        problems.append(f"nr_vmap_nodes is {number}: it is damaged, some areas may be unknown")
    found: list[Object] = []
    for index in range(max(min(number, _MOST_NODES), 1)):
        try:
            head = nodes[index].busy.head.address_of_()
            head.next.read_()
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"{subject} ends early ({error})")
            break
        found += every_entry(type_, head, "list", subject, problems)
    return found


def _pointers(kernel: Kernel, address: int, number: int) -> Array:
    try:
        return read_array(kernel.prog, address, kernel.word, number).astype(np.uint64)
    except FaultError:
        return np.zeros(number, np.uint64)


def _module_at(modules: list[tuple[int, int, str]], start: int, size: int) -> str | None:
    for first, end, name in modules:
        if first < start + size and start < end:
            return name
    return None


def _use_of_area(
    callers: _Callers,
    vm: Object,
    start: int,
    size: int,
    modules: list[tuple[int, int, str]],
    stack_size: int,
) -> tuple[AreaKind, str]:
    """Return the kind and the name of an area that is not the stack of any task."""
    module = _module_at(modules, start, size)
    if module is not None:
        return AreaKind.MODULE, module
    # A stack without a task is cached for the next task.
    cached = size == stack_size and _is_stack(callers, vm)
    return AreaKind.CACHED_STACK if cached else AreaKind.VMALLOC, ""


def _is_stack(callers: _Callers, vm: Object) -> bool:
    """Return whether a ``struct vm_struct *`` was allocated as a stack of a task."""
    # The compiler may inline any of alloc_thread_stack_node() and its callers.
    starts = ("alloc_thread_stack", "dup_task_struct", "copy_process", "kernel_clone", "_do_fork",
              "fork_idle", "create_io_thread")  # fmt: skip
    return callers.of(vm).startswith(starts)


class _Callers:
    """The functions that allocated areas, each of which is looked up once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._names: dict[int, str] = {}

    def of(self, vm: Object) -> str:
        """Return the name of the function that allocated an area: ``vm_struct.caller``, or
        ``""``."""
        try:
            caller = int(vm.caller)
        except DAMAGE as error:
            unless_mistaken(error)
            return ""
        if caller not in self._names:
            self._names[caller] = self._name(caller)
        return self._names[caller]

    def _name(self, caller: int) -> str:
        try:
            return str(self._kernel.prog.symbol(caller).name)
        except LookupError:
            # A layout pack has no functions.
            [frame] = load_kallsyms(self._kernel).symbolize(np.array([caller], np.uint64))
            return frame.name or ""
