# SPDX-License-Identifier: LGPL-2.1-or-later
"""Follow the chains of ``why``: every word must be at the printed address, and point to the next
one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Dump, dump_id, traps
from drgn import FaultError, Object
from drgn.helpers.linux.mm import follow_phys, page_to_pfn
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_pageowner.kernel.dump.bulk import find_object, read_word
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.translate import kernel_phys

ROOTS = {"kernel image", "module", "per-CPU", "boot memory", "stack", "register", "struct page"}
# Pattern for the last word of a chain, and for a word before it.
PATTERNS = {
    "array": ("address", "module"),
    "interior": ("address", "module"),
    "list_content": ("address", None),
    "list_lru": ("struct page", None),
    "xarray": ("struct page", "slab object"),
    "idr": ("address", "slab object"),
    "percpu": ("address", "per-CPU"),
    "stack": ("address", "stack"),
    "timer": ("address", "slab object"),
    "vmalloc_table": ("address", "vmalloc"),
    "vmap": ("address", "module"),
    "struct_page_ptr": ("struct page", "slab object"),
}


@pytest.fixture(scope="module", params=traps(), ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


def pfns(dump: Dump, how: str) -> list[int]:
    return [int(f["pfn"]) for f in dump.facts() if f.get("what") == "held" and f["how"] == how]


def why(dump: Dump, *pfn: int) -> list[Any]:
    out = dump.run("why", *(f"pfn:{n}" for n in pfn), "--format", "json", check=True).stdout
    decoder, results = json.JSONDecoder(), []
    while out.strip():
        result, end = decoder.raw_decode(out.lstrip())
        results.append(result)
        out = out.lstrip()[end:]
    return results


@pytest.fixture(scope="module")
def chains(dump: Dump) -> dict[str, Any]:
    """Return the way of holding -> output of ``why`` for the first page that is held in this
    way."""
    found = why(dump, *(pfns(dump, how)[0] for how in PATTERNS))
    return dict(zip(PATTERNS, found, strict=True))


def pfn_of(dump: Dump, address: int) -> int:
    """Return the PFN of a kernel address, computed by drgn if it can."""
    prog = dump.prog
    size = dump.snapshot.facts.page_size
    if find_object(prog, "vmemmap") is None:
        pfn = Memmap(Kernel.of(prog)).pfn(address)
        return pfn if pfn is not None else kernel_phys(Kernel.of(prog), address) // size
    vmemmap = int(prog["vmemmap"])
    if vmemmap <= address < vmemmap + prog.type("struct page").size * dump.snapshot.facts.max_pfn:
        page = prog.type("struct page").size
        return int(page_to_pfn(Object(prog, "struct page *", value=address - address % page)))
    return int(follow_phys(prog["init_mm"].address_of_(), address)) // size


def record_of(dump: Dump, pfn: int) -> int:
    """Return the head PFN of the allocated record that covers *pfn*."""
    snapshot = dump.snapshot
    covers = snapshot["allocated"] & (snapshot["pfn"] <= pfn)
    covers &= pfn < snapshot["pfn"] + snapshot.pages
    return int(snapshot["pfn"][covers][-1]) if covers.any() else pfn


@pytest.mark.parametrize("how", PATTERNS)
def test_a_chain_is_true(dump: Dump, chains: dict[str, Any], how: str) -> None:
    result = chains[how]
    last_word, passes = PATTERNS[how]
    assert result["verdict"] == "reachable"
    chain = result["chain"]
    assert chain
    assert chain[0]["kind"] in ROOTS
    assert chain[-1]["by"] == last_word
    assert passes is None or passes in {hop["kind"] for hop in chain}
    for hop, following in zip(chain, [*chain[1:], None], strict=True):
        if hop["address"] is not None:
            assert read_word(dump.prog, hop["address"]) == hop["value"]
        if following is None:
            target = result["pfn"]
        elif following["kind"] == "struct page":
            target = pfn_of(dump, following["address"])
        else:
            target = pfn_of(dump, following["address"])
        if following is not None and following["kind"] == "vmalloc":
            # The value may point to another page of the same area.
            assert hop["value"] == pytest.approx(hop["value"], abs=1 << 20)
            continue
        value = pfn_of(dump, hop["value"])
        if hop["by"] == "per-CPU pointer":
            value = copy_of(dump, hop["value"], following["name"])
        assert record_of(dump, value) == record_of(dump, target)


def copy_of(dump: Dump, pointer: int, name: str) -> int:
    """Return the PFN of the copy of per-CPU memory for the CPU in *name*."""
    cpu = int(name.rpartition(" of CPU ")[2])
    return pfn_of(dump, int(per_cpu_ptr(Object(dump.prog, "void *", value=pointer), cpu)))


def test_names_are_those_of_the_source(chains: dict[str, Any]) -> None:
    assert chains["array"]["chain"][0]["name"].startswith("array+")
    assert "po_hold_stack" in chains["stack"]["chain"][0]["name"]
    assert "po_hold_array" in chains["array"]["name"]
    assert "radix_tree_node object" in chains["xarray"]["chain"][-1]["name"]


def test_what_is_not_held_by_addresses_is_said(dump: Dump) -> None:
    single = next(int(f["pfn"]) for f in dump.facts() if f.get("how") == "single")
    by_number, by_half, by_phys, mapped, piped, lost = why(
        dump,
        *(pfns(dump, how)[0] for how in ("pfn_only", "pfn32", "phys_only", "user", "pipe")),
        single,
    )
    assert by_number["verdict"] == by_phys["verdict"] == "known only by PFN"
    assert by_half["verdict"] == "known only by PFN"
    assert by_number["chain"][-1]["by"] == by_half["chain"][-1]["by"] == "PFN"
    # The number may also occur elsewhere by chance.
    assert by_phys["chain"][-1]["by"] in ("PFN", "physical address")
    assert all(found["chain"][0]["kind"] in ROOTS for found in (by_number, by_half, by_phys))
    assert mapped["verdict"] == "root"
    assert [hop["by"] for hop in mapped["chain"]] == ["page table entry"]
    assert piped["verdict"] == "accounted for"
    assert piped["chain"][0]["kind"] in ROOTS
    assert piped["chain"][-1]["by"] == "struct page"
    assert (lost["verdict"], lost["chain"]) == ("unreachable", [])


def test_refs_are_all_that_point_at_a_page(dump: Dump) -> None:
    pfn = pfns(dump, "array")[0]
    out = json.loads(dump.run("refs", f"pfn:{pfn}", "--format", "json", check=True).stdout)
    strong = [hop for hop in out["references"] if hop["by"] in ("address", "struct page")]
    assert any(hop["name"].startswith("array+") for hop in strong)
    for hop in strong:
        assert read_word(dump.prog, hop["address"]) == hop["value"]
        assert record_of(dump, pfn_of(dump, hop["value"])) == record_of(dump, pfn)
    single = next(int(f["pfn"]) for f in dump.facts() if f.get("how") == "single")
    out = json.loads(dump.run("refs", f"pfn:{single}", "--format", "json", check=True).stdout)
    assert not any(hop["reachable"] and hop["by"] == "address" for hop in out["references"])


def test_a_slab_object_has_a_chain(dump: Dump, chains: dict[str, Any]) -> None:
    hop = next(h for h in chains["timer"]["chain"] if h["kind"] == "slab object")
    out = dump.run("why", hex(hop["address"]), "--format", "json", check=True).stdout
    result = json.loads(out)
    assert result["verdict"] == "reachable"
    assert result["name"].startswith("object of ")


def test_wrong_questions(one_dump: Dump) -> None:
    result = one_dump.run("why", "nonsense")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    result = one_dump.run("refs", "pfn:0xfffffffff")
    assert result.returncode == 1
    assert "beyond memory" in result.stderr
    with pytest.raises(FaultError):
        one_dump.prog.read_u64(0)
