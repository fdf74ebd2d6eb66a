# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that every page is in one class, and that classes agree with the kernel's own counters."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import DUMPS, Dump, bundled

from drgn_pageowner import read_inventory
from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.linux.kasan import find_shadow
from drgn_pageowner.model.heap import AreaKind

ALL = [
    *DUMPS,
    *(
        lambda name=name: bundled(name)
        for name in ("linux-5.10/owner-off", "linux-6.12-noowner/kdump")
    ),
]
# Lines of /proc/meminfo, in kB.
MEMINFO = {
    "Slab": "Slab",
    "AnonPages": "AnonPages",
    "Shmem": "Shmem",
    "PageTables": "PageTables",
    "KernelStack": "KernelStack",
    "VmallocUsed": "VmallocUsed",
    "Percpu": "Percpu",
    "Hugetlb": "Hugetlb",
}


def answer(dump: Dump) -> Any:
    return json.loads(dump.run("account", "--format", "json").stdout)


def meminfo(dump: Dump) -> dict[str, int]:
    text = dump.truth("proc/meminfo").decode()
    return {k: int(v) for k, v in re.findall(r"^(\S+):\s+(\d+) kB", text, re.MULTILINE)}


@pytest.mark.parametrize("get", ALL)
@pytest.mark.every_dump
def test_every_page_is_in_one_class(get: Any) -> None:
    result = answer(get())
    assert result["accounted"] == result["present"]
    assert sum(row["pages"] for row in result["classes"]) == result["present"]
    assert result["unknown"] == 0
    for zone in result["zones"]:
        assert sum(zone["classes"].values()) == zone["present"]
    of_zones: dict[str, int] = {}
    for zone in result["zones"]:
        for name, pages in zone["classes"].items():
            of_zones[name] = of_zones.get(name, 0) + pages
    assert of_zones == {row["name"]: row["pages"] for row in result["classes"]}


@pytest.mark.parametrize("get", ALL)
@pytest.mark.every_dump
def test_classes_are_what_the_kernel_counts(get: Any) -> None:
    dump = get()
    counted = 0
    for row in answer(dump)["classes"]:
        counter = row["counter"]
        if counter is None:
            continue
        counted += 1
        # Upper-level page tables and stacks without a task are only recognized by records.
        if "noowner" in dump.name or "off" in dump.name:
            assert abs(counter["difference"]) <= max(0.01 * counter["pages"], 300), row
        else:
            assert abs(counter["difference"]) <= max(0.01 * counter["pages"], 64), row
    assert counted >= 9


@pytest.mark.every_dump
def test_counters_are_the_kernels_own(dump: Dump) -> None:
    said = meminfo(dump)
    size = dump.snapshot.facts.page_size // 1024
    for row in answer(dump)["classes"]:
        counter = row["counter"]
        if counter is not None and counter["name"] in MEMINFO:
            kilobytes = said[MEMINFO[counter["name"]]]
            # The guest allocated memory after it saved the text.
            assert abs(counter["pages"] * size - kilobytes) <= 256 * dump.drift, counter


@pytest.mark.every_dump
def test_slab_caches_are_those_of_slabinfo(dump: Dump) -> None:
    [slab] = [row for row in answer(dump)["classes"] if row["name"] == "slab"]
    assert sum(pages for _, pages in slab["slab_caches"]) == slab["pages"]
    truth = {}
    for line in dump.truth("proc/slabinfo").decode().splitlines()[2:]:
        words = line.replace(":", " ").split()
        # name active total objsize objperslab pagesperslab tunables 0 0 0 slabdata active slabs
        truth[words[0]] = int(words[5]) * int(words[11])
    different = {
        name: (pages, truth[name])
        for name, pages in slab["slab_caches"]
        if pages != truth.get(name)
    }
    if find_shadow(dump.linux) is not None:
        # Buffers that the guest frees while it reads files stay in KASAN's quarantine.
        different = {n: d for n, d in different.items() if not n.startswith(("kmalloc", "names_"))}
    assert sum(abs(ours - theirs) for ours, theirs in different.values()) <= 32, different


def test_text_has_the_same_numbers(one_dump: Dump) -> None:
    result = answer(one_dump)
    text = one_dump.run("account", "--zones", "--caches", check=True).stdout
    for row in result["classes"]:
        assert re.search(rf"^{re.escape(row['name'])} +{row['pages']:,} ", text, re.MULTILINE)
    assert "every one of them in one class" in text
    assert "kmalloc-64" in text


def test_stacks_are_the_tasks(dump: Dump) -> None:
    inventory = read_inventory(dump.prog)
    stacks = [area for area in inventory.areas if area.kind == AreaKind.STACK]
    if find_object(dump.prog, "cached_stacks") is None:
        # Without CONFIG_VMAP_STACK, stacks are not in vmalloc areas.
        assert not stacks
        assert len(inventory.tasks) > 20
        return
    assert len(stacks) > 20
    assert len(inventory.tasks) >= len(stacks)
