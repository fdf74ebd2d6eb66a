# SPDX-License-Identifier: LGPL-2.1-or-later
"""Evaluate the expressions of ``why`` with drgn; each must give the next hop."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from asking import ask
from conftest import Dump, dump_id, leak_free, profiling, traps
from drgn import FaultError, Object, Program
from drgn.cli import default_globals
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_virt
from drgn.helpers.linux.pid import find_task
from drgn.helpers.linux.slab import slab_object_info

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.translate import kernel_phys
from drgn_pageowner.kernel.session import ProgramSession

# Start of the expression of the last typed hop (or of the first hop), for each way in which the
# guest holds a page or object. "" means that no hop has a type.
PATTERNS = {
    # po_leak
    "array": 'prog["array"][',
    "interior": 'prog["interior"][',
    "list_content": 'prog["content_list"].',
    "list_lru": 'prog["lru_list"].',
    "xarray": ".slots[",
    "idr": ".slots[",
    "percpu": "",
    "percpu_alloc": 'per_cpu_ptr(prog["pockets"][',
    "stack": 'Object(prog, "void *"',
    "timer": "",
    "vmalloc_table": "",
    "vmap": 'prog["mapped"]',
    "struct_page_ptr": "page_to_virt(",
    "pfn_only": "pfn_to_virt(",
    "pfn32": "pfn_to_virt(",
    "phys_only": "phys_to_virt(",
    "user": "follow_phys(",
    # work
    "pipe": "struct pipe_buffer",
    "socket": ".sk_receive_queue.",
    "cache": ".slots[",
    # po_owners, without names that po_leak has, too
    "items": 'prog["item_list"].',
    "ring": 'prog["ring"]',
    "nodes": 'prog["tree"].rb_node',
    "flagged": 'prog["flagged"][',
    "percpu_item": 'prog["item_list"].',
    "percpu_large": 'prog["large_counters"]',
    "area": 'prog["area"]',
    "pages": 'prog["struct_pages"]',
    "large": 'prog["exact"]',
    "waiting": "",
    # What po_leak drops unless it is told not to: then a table has it.
    "exact": 'prog["dropped"][',
    "kmalloc_large": 'prog["dropped"][',
    "lru_ring": 'prog["dropped"][',
    "object": 'prog["dropped"][',
    "order": 'prog["dropped"][',
    "single": 'prog["dropped"][',
    "tree": 'prog["dropped"][',
}
# Kind of fact -> its member with the address or PFN.
WHERE = {"held": "pfn", "heldobj": "va", "heldarea": "va", "heldpercpu": "cpu0"}
VERDICTS = {
    "pfn_only": "known only by PFN",
    "pfn32": "known only by PFN",
    "phys_only": "known only by PFN",
    "user": "root",
    "pipe": "accounted for",
    "socket": "accounted for",
    "cache": "accounted for",
}


class Held(NamedTuple):
    """Memory that the guest holds in one way."""

    how: str
    what: str
    start: int
    """Virtual address; for a page, its PFN."""
    size: int
    """Size in bytes; for a page, number of pages."""


def held(dump: Dump) -> list[Held]:
    """Return the first and the last piece of memory that the guest holds in each way."""
    every: dict[tuple[str, str], list[Held]] = {}
    for fact in dump.facts():
        what = fact.get("what", "")
        if what not in WHERE or WHERE[what] not in fact:
            continue
        start = int(fact[WHERE[what]], 0)
        size = 1 << int(fact.get("order", "0")) if what == "held" else int(fact["size"])
        every.setdefault((what, fact["how"]), []).append(Held(fact["how"], what, start, size))
    if ("held", "percpu_alloc") not in every and ("held", "percpu") in every:
        # In an earlier po_leak, gcc optimized away the variable with every second pointer.
        every["held", "percpu"] = every["held", "percpu"][::2]
    return [one for group in every.values() for one in (group[0], group[-1])]


@pytest.fixture(
    scope="module",
    # Of each profiling kernel one dump: the guests did the same.
    params=[*traps(), *leak_free(), *(g for g in profiling() if "tags" not in str(g.args[0]))],
    ids=dump_id,
)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


@pytest.fixture(scope="module")
def prog(dump: Dump) -> Program:
    """Return the program of the dump, with the DWARF of its modules."""
    directory = dump.vmlinux.parent / "modules"
    modules = [*directory.glob("po_leak.ko"), *directory.glob("po_owners.ko")]
    symbols = (str(dump.vmlinux), *map(str, modules))
    return open_program(ProgramOptions(core=str(dump.vmcore), symbols=symbols))


@pytest.fixture(scope="module")
def chains(dump: Dump, prog: Program) -> list[tuple[Held, Any]]:
    """Return the output of ``why`` for all held memory."""
    every = held(dump)
    words = " ".join(
        f"pfn:{one.start}" if one.what == "held" else f"{one.start:#x}" for one in every
    )
    status, out, _ = ask(ProgramSession(prog), f"why --format json {words}")
    assert status == 0
    decoder, found = json.JSONDecoder(), []
    while out.strip():
        result, end = decoder.raw_decode(out.lstrip())
        found.append(result)
        out = out.lstrip()[end:]
    return list(zip(every, found, strict=True))


def evaluated(prog: Program, expression: str) -> Object:
    """Evaluate an expression as drgn's shell does."""
    return eval(expression, default_globals(prog))


def pfn_of(prog: Program, address: int) -> int:
    kernel = Kernel.of(prog)
    pfn = Memmap(kernel).pfn(address)
    return pfn if pfn is not None else kernel_phys(kernel, address) // kernel.page_size


def is_in_the_same(prog: Program, value: int, place: int) -> bool:
    """Return whether two addresses are in the same slab object, page or area."""
    try:
        one, other = slab_object_info(prog, value), slab_object_info(prog, place)
    except (FaultError, LookupError, ValueError, NotImplementedError):
        # drgn lacks this helper for i386, and its older versions for Linux 7.2.
        one = other = None
    if one is not None and other is not None:
        return bool(one.address == other.address)
    if abs(value - place) < 16 * Kernel.of(prog).page_size:
        return True
    # One address is in the direct map, the other in a vmalloc area.
    return pfn_of(prog, value) == pfn_of(prog, place)


def test_the_guest_holds_nothing_else(dump: Dump) -> None:
    kinds = {one.how for one in held(dump)}
    assert kinds
    assert kinds <= PATTERNS.keys()


@pytest.mark.once
def test_each_hop_evaluates_to_the_next(
    dump: Dump, prog: Program, chains: list[tuple[Held, Any]]
) -> None:
    for one, found in chains:
        hops = found["chain"]
        if dump in [get() for get in traps()]:
            assert found["verdict"] == VERDICTS.get(one.how, "reachable"), one
        assert hops, one
        for hop, after in zip(hops, [*hops[1:], None], strict=True):
            if hop["kind"] == "register":
                assert hop["expression"] is None
                continue
            word = evaluated(prog, hop["expression"])
            assert int(word) == hop["value"], hop["expression"]
            target = int(evaluated(prog, hop["target_expression"]))
            if after is None:
                assert is_of(prog, target, one), (one, hop["target_expression"])
            elif after["kind"] == "struct page" and hop["by"] == "struct page":
                place = evaluated(prog, after["expression"]).address_
                pages = [Object(prog, "struct page *", value=at) for at in (target, place)]
                assert int(page_to_pfn(pages[0])) == int(page_to_pfn(pages[1]))
            elif hop["by"] == "per-CPU pointer":
                place = evaluated(prog, after["expression"]).address_
                assert 0 <= place - target < 64 or is_in_the_same(prog, target, place)
            else:
                place = evaluated(prog, after["expression"]).address_
                assert is_in_the_same(prog, target, place), hop["target_expression"]


def is_of(prog: Program, address: int, one: Held) -> bool:
    """Return whether an address is in the held memory."""
    if one.what == "held":
        # Several pages that were mapped or allocated together are one allocation.
        size = Kernel.of(prog).page_size
        mapped = one.how in ("vmap", "area")
        start = range(address, address + (8 * size if mapped else 1), size)
        pages = range(one.start, one.start + one.size)
        if one.how == "exact":
            pages = range(one.start - 4, one.start + 5)
        return any(pfn_of(prog, at) in pages for at in start)
    if one.start <= address < one.start + one.size:
        return True
    # A page of a vmalloc area, by its address in the direct map.
    return one.what == "heldarea" and pfn_of(prog, address) == pfn_of(prog, one.start)


def test_each_way_is_written_as_in_the_source(
    dump: Dump, prog: Program, chains: list[tuple[Held, Any]]
) -> None:
    for one, found in chains[::2]:
        expressions = " ".join(hop["target_expression"] or "" for hop in found["chain"])
        wanted = PATTERNS[one.how]
        # drgn does not know the direct map of i386, so expressions use arithmetic.
        known = has_dwarf(prog) if "prog[" in wanted else not wanted.endswith("(") or knows(prog)
        # If nothing is dropped, the table refers to the page, too; and a process may map a page of
        # a file.
        others = ('prog["dropped"][', *(("follow_phys(",) if one.how == "cache" else ()))
        assert not known or any(word in expressions for word in (wanted, *others)), one


def knows(prog: Program) -> bool:
    """Return whether drgn knows the direct map."""
    try:
        return bool(pfn_to_virt(prog, 0))
    except NotImplementedError:
        return False


def has_dwarf(prog: Program) -> bool:
    """Return whether the module's variables have a type; some bundled modules have no DWARF."""
    try:
        return bool(prog.variable("content_list").type_.type_name() == "struct list_head")
    except LookupError:
        return False


def test_types_are_named_on_the_way(prog: Program, chains: list[tuple[Held, Any]]) -> None:
    first = {(one.what, one.how): found for one, found in chains[::2]}
    if ("held", "xarray") not in first:
        pytest.skip("po_leak was not loaded")
    [*_, before, last] = first["held", "xarray"]["chain"]
    assert before["target_type"] == last["type"] == "struct xa_node"
    assert last["exact"]
    if has_dwarf(prog):
        assert first["held", "array"]["chain"][0]["type"] == "void *[8]"
        pointer = first["held", "struct_page_ptr"]["chain"][-1]["expression"]
        assert pointer.startswith('Object(prog, "struct page *", address=')
        assert first["held", "percpu"]["chain"][-1]["expression"].endswith("[0].page")


def test_page_names_the_member_of_an_object(one_dump: Dump) -> None:
    prog = one_dump.prog
    task = int(find_task(prog, 1)) + prog.type("struct task_struct").member("tasks").offset
    [block, *_] = list_for_each_entry(
        "struct super_block", prog["super_blocks"].address_of_(), "s_list"
    )
    root = int(block) + prog.type("struct super_block").member("s_root").offset
    for address, type_, types in (
        (task, "struct task_struct", ()),
        (root, None, ()),
        (root, "struct super_block", ("--types",)),
    ):
        out = one_dump.run("page", *types, hex(address), "--format", "json", check=True).stdout
        slab = json.loads(out)["slab"]
        assert slab["type"] == type_
        if type_ is None:
            assert slab["expression"] is None
        else:
            assert evaluated(prog, slab["expression"]).address_ == address
