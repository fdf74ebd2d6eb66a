# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``why`` says of each hop is evaluated by drgn, and must give the next one."""

from __future__ import annotations

import json
from typing import Any

import drgn
import pytest
from asking import ask
from conftest import Dump, traps
from drgn import FaultError, Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr
from drgn.helpers.linux.pid import find_task
from drgn.helpers.linux.slab import slab_object_info

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.translate import kernel_phys
from drgn_pageowner.kernel.session import ProgramSession

# How po_leak holds pages, and how the last hop is written that has its type, or the first.
PATTERNS = {
    "array": 'prog["array"][',
    "interior": 'prog["interior"][',
    "list_content": 'prog["content_list"].',
    "list_lru": 'prog["lru_list"].',
    "xarray": ".slots[",
    "idr": ".slots[",
    "percpu": "",
    "stack": 'Object(prog, "void *"',
    "timer": "",
    "vmalloc_table": "",
    "vmap": 'prog["mapped"]',
    "struct_page_ptr": "",
}


@pytest.fixture(scope="module", params=traps(), ids=lambda get: str(get.args[0]))
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


@pytest.fixture(scope="module")
def prog(dump: Dump) -> Program:
    """The dump, with the DWARF of its modules."""
    modules = sorted((dump.vmlinux.parent / "modules").glob("po_leak.ko"))
    symbols = (str(dump.vmlinux), *map(str, modules))
    return open_program(ProgramOptions(core=str(dump.vmcore), symbols=symbols))


@pytest.fixture(scope="module")
def chains(dump: Dump, prog: Program) -> dict[str, Any]:
    """How -> what ``why`` says of the first page that is held so."""
    pages = {
        how: next(
            int(f["pfn"]) for f in dump.facts() if f.get("what") == "held" and f["how"] == how
        )
        for how in PATTERNS
    }
    words = " ".join(f"pfn:{pfn}" for pfn in pages.values())
    status, out, _ = ask(ProgramSession(prog), f"why --format json {words}")
    assert status == 0
    decoder, found = json.JSONDecoder(), []
    while out.strip():
        result, end = decoder.raw_decode(out.lstrip())
        found.append(result)
        out = out.lstrip()[end:]
    assert [one["pfn"] for one in found] == list(pages.values())
    return dict(zip(pages, found, strict=True))


def evaluated(prog: Program, expression: str) -> Object:
    """What drgn's shell makes of it."""
    names = {"prog": prog, "Object": Object, "per_cpu": per_cpu, "drgn": drgn}
    return eval(expression, names)


def pfn_of(prog: Program, address: int) -> int:
    kernel = Kernel.of(prog)
    pfn = Memmap(kernel).pfn(address)
    return pfn if pfn is not None else kernel_phys(kernel, address) // kernel.page_size


def is_in_the_same(prog: Program, value: int, place: int) -> bool:
    """Whether two addresses are in one slab object, or in one page or area."""
    try:
        one, other = slab_object_info(prog, value), slab_object_info(prog, place)
    except (FaultError, ValueError, NotImplementedError):
        # Of i386 drgn has no such helper.
        one = other = None
    if one is not None and other is not None:
        return bool(one.address == other.address)
    if abs(value - place) < 16 * Kernel.of(prog).page_size:
        return True
    # The one is an address of the direct map, the other one of an area; or of another CPU's copy.
    return pfn_of(prog, value) == pfn_of(prog, place)


@pytest.mark.parametrize("how", PATTERNS)
def test_each_hop_evaluates_to_the_next(prog: Program, chains: dict[str, Any], how: str) -> None:
    found = chains[how]
    assert found["verdict"] == "reachable"
    hops = found["chain"]
    assert hops
    for hop, after in zip(hops, [*hops[1:], None], strict=True):
        if hop["kind"] == "register":
            assert hop["expression"] is None
            continue
        word = evaluated(prog, hop["expression"])
        assert int(word) == hop["value"], hop["expression"]
        if after is None:
            head = pfn_of(prog, hop["value"])
            assert found["pfn"] <= head < found["pfn"] + 4
        elif hop["by"] == "per-CPU pointer":
            pointer = Object(prog, "void *", value=hop["value"])
            copies = [int(per_cpu_ptr(pointer, cpu)) for cpu in for_each_possible_cpu(prog)]
            place = evaluated(prog, after["expression"]).address_
            assert any(0 <= place - copy < 64 for copy in copies)
        else:
            place = evaluated(prog, after["expression"]).address_
            assert is_in_the_same(prog, hop["value"], place), hop["expression"]
    expressions = " ".join(hop["expression"] or "" for hop in hops)
    if has_dwarf(prog) or "prog[" not in PATTERNS[how]:
        assert PATTERNS[how] in expressions


def has_dwarf(prog: Program) -> bool:
    """Whether the module's own variables have a type: those of some bundled modules have none."""
    try:
        return bool(prog.variable("content_list").type_.type_name() == "struct list_head")
    except LookupError:
        return False


def test_types_are_named_on_the_way(prog: Program, chains: dict[str, Any]) -> None:
    [*_, before, last] = chains["xarray"]["chain"]
    assert before["target_type"] == last["type"] == "struct xa_node"
    assert last["exact"]
    if has_dwarf(prog):
        assert chains["array"]["chain"][0]["type"] == "void *[8]"
        pointer = chains["struct_page_ptr"]["chain"][-1]["expression"]
        assert pointer.startswith('Object(prog, "struct page *", address=')
        assert chains["percpu"]["chain"][-1]["expression"].endswith("[0].page")


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
