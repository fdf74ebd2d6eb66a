# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that code for one architecture is only in kernel/linux/arch/ and kernel/dump/."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from conftest import ROOT, Dump
from drgn import Architecture

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.kernel.linux import arch
from drgn_pageowner.kernel.linux.arch.base import Arch
from drgn_pageowner.kernel.linux.translate import direct_map, image_range, kernel_pfns
from drgn_pageowner.kernel.linux.vmalloc import _stack_pointer

KERNEL = ROOT / "drgn_pageowner" / "kernel"
# Names that only exist in one architecture's kernel, or in drgn for one architecture.
NAMES = re.compile(
    r"Architecture\.|pgtable_l5_enabled|sme_me_mask|VA_BITS|X86_PAE|__brk_limit|cpu_context|"
    r"irq_stack_backing_store|exception_stacks|irq_stack_ptr"
)


def test_names_of_architectures_are_in_their_files() -> None:
    outside = [
        path.name
        for floor in ("linux", "read")
        for path in (KERNEL / floor).glob("*.py")
        if NAMES.search(path.read_text())
    ]
    assert outside == []
    assert all(NAMES.search((KERNEL / "linux/arch" / f"{name}.py").read_text()) for name in
               ("x86", "arm64"))  # fmt: skip


def test_an_architecture_needs_nothing_of_the_other_files() -> None:
    imports = {
        line.split()[1]
        for path in (KERNEL / "linux/arch").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from drgn_pageowner", "import drgn_pageowner"))
    }
    # Array is no more than a name for NumPy arrays.
    allowed = (
        "drgn_pageowner.kernel.dump",
        "drgn_pageowner.kernel.linux.arch.",
        "drgn_pageowner.model.arrays",
    )
    assert imports
    assert [name for name in imports if not name.startswith(allowed)] == []


def test_one_line_registers_an_architecture(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Made(Arch):
        stack_pointer = "sp0_of_another_architecture"

        def page_table_format(self, kernel: Kernel) -> Format | None:
            asked.append("page tables")
            return None

        def direct_map(self, kernel: Kernel) -> int:
            asked.append("direct map")
            return 0x1000

    platform = one_dump.prog.platform
    assert platform is not None
    expected = image_range(one_dump.linux)
    assert expected is not None
    pfns = kernel_pfns(one_dump.linux, expected[0], 5).tolist()
    monkeypatch.setitem(arch._KNOWN, platform.arch, Made())
    kernel = Kernel(one_dump.prog)
    assert direct_map(kernel) == direct_map(kernel) == 0x1000
    # drgn walks the page tables instead, with the same result.
    assert kernel_pfns(kernel, expected[0], 5).tolist() == pfns
    assert _stack_pointer(kernel, one_dump.prog["init_task"].address_of_()) == 0
    assert asked == ["direct map", "page tables"]


@pytest.mark.parametrize(
    ("name", "architecture", "bits"),
    [
        ("linux-6.12/traps", Architecture.X86_64, (9, 9, 9, 9)),
        ("linux-6.12-i386/traps", Architecture.I386, None),
        ("linux-7.2-arm64-16k/kdump", Architecture.AARCH64, None),
    ],
)
def test_dumps_have_the_format_of_their_architecture(
    dump_named: Callable[[str], Dump],
    name: str,
    architecture: Architecture,
    bits: tuple[int, ...] | None,
) -> None:
    kernel = dump_named(name).linux
    known = arch.arch_of(kernel)
    assert known is arch._KNOWN[architecture]
    format_ = known.page_table_format(kernel)
    assert format_ is not None
    assert format_.page_shift == kernel.page_shift
    assert bits is None or format_.bits == bits
    # The page tables map the kernel image at the addresses of its symbols.
    image = image_range(kernel)
    assert image is not None
    assert kernel_pfns(kernel, image[0], 1)[0] >= 0
