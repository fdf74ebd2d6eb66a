# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare types of slab objects in real dumps with the types that names of caches imply."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Dump

pytestmark = [pytest.mark.once, pytest.mark.one_of_a_kernel]


@pytest.fixture(scope="module")
def answer(dump: Dump) -> Any:
    return json.loads(dump.run("typegraph", "--check", "--format", "json", check=True).stdout)


def test_most_objects_have_a_type(dump: Dump, answer: Any) -> None:
    assert answer["typed_objects"] > 0.75 * answer["objects"]
    assert answer["typed_bytes"] > 0.7 * answer["bytes"]
    by_cache = {cache["cache"]: cache for cache in answer["caches"]}
    for name, type_ in (
        ("dentry", "struct dentry"),
        ("task_struct", "struct task_struct"),
        ("vm_area_struct", "struct vm_area_struct"),
    ):
        mine = [c for cache, c in by_cache.items() if cache.partition("(")[0] == name]
        assert mine
        for cache in mine:
            assert cache["typed_objects"] == cache["objects"]
            assert cache["types"] == [type_]


def test_sums_of_groups_are_those_of_caches(answer: Any) -> None:
    for key in ("objects", "bytes"):
        assert sum(group[key] for group in answer["groups"]) == answer[key]
        assert sum(cache[key] for cache in answer["caches"]) == answer[key]
    typed = [group for group in answer["groups"] if group["type"] is not None]
    assert sum(group["objects"] for group in typed) == answer["typed_objects"]
    assert sum(group["exact"] for group in typed) == answer["exact_objects"]


def test_what_is_inferred_without_the_names_of_caches_is_right(dump: Dump, answer: Any) -> None:
    checked = answer["accuracy"]
    assert checked["certain_objects"] > 0.5 * answer["objects"]
    # With kmemleak, a third of the objects are its own, which are referred to by untyped trees and
    # lists.
    least = 0.6 if dump.bundled else 0.3
    assert checked["named_objects"] > least * checked["certain_objects"]
    assert checked["right_objects"] >= 0.999 * checked["named_objects"], checked["wrong"]
    wrong = sum(objects for _, _, objects in checked["wrong"])
    assert checked["right_objects"] + wrong == checked["named_objects"]


@pytest.mark.parametrize(
    "name",
    ["linux-5.10/owner-off", "linux-6.12-noowner/kdump", "linux-7.2-profiling/owner-off-tags"],
)
def test_types_need_no_records(dump_named: Callable[[str], Dump], name: str) -> None:
    out = dump_named(name).run("typegraph", "--check", "--format", "json", check=True).stdout
    found = json.loads(out)
    assert found["typed_objects"] > 0.75 * found["objects"]
    checked = found["accuracy"]
    assert checked["right_objects"] >= 0.999 * checked["named_objects"] > 0, checked["wrong"]


def test_top_has_the_same_groups(one_dump: Dump) -> None:
    top = ("top", "--slab", "--by", "type")
    found = json.loads(one_dump.run(*top, "--format", "json", check=True).stdout)
    whole = json.loads(one_dump.run("typegraph", "--format", "json", check=True).stdout)
    assert found == whole
    rows = list(csv.DictReader(io.StringIO(one_dump.run(*top, "--format", "csv").stdout)))
    assert len(rows) == found["number_of_groups"]
    assert rows[0]["type"] == found["groups"][0]["type"]
    text = one_dump.run(*top, "--limit", "3", check=True).stdout
    assert f"3 of {found['number_of_groups']:,} groups shown" in text
    assert "struct dentry" in one_dump.run("typegraph", check=True).stdout


def cpu_time(dump: Dump, *words: str) -> float:
    """Return the CPU time of a separate process, user and system, in seconds."""
    command = [sys.executable, "-m", "drgn_pageowner", "-c", str(dump.vmcore),
               "-s", str(dump.vmlinux), *words]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def test_types_cost_less_than_the_search_without_them(dump_named: Callable[[str], Dump]) -> None:
    # The bundled dump with the most memory: 1 GiB.
    dump = dump_named("linux-6.12-sparsemem/kdump")
    assert cpu_time(dump, "leaks") <= 2 * cpu_time(dump, "leaks", "--no-types")


def test_other_keys_are_for_records(one_dump: Dump) -> None:
    result = one_dump.run("top", "--slab", "--by", "comm")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "--by type" in line
