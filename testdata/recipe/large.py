#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make ELF dumps of guests with much memory, for benchmarks/scale.py.

    large.py --work DIR 8 32 128

A guest's memory is a sparse file, in which only what the guest uses takes space: 128 GiB take 8 GB.
The guest runs Linux 7.2 on four NUMA nodes. Its module po_many makes some 100,000 records for each
GiB, of up to 80,000 stacks, and slab objects, lists and vmalloc areas. When it is done, the guest
is stopped, and its memory becomes a dump in place: DIR/large/128.elf. Prints the argument of
benchmarks/scale.py for each guest.

Needs what recipe.py needs, and a file system that can insert a range into a file (ext4, XFS); what
is in --work is used again.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import struct
import sys
from pathlib import Path

from recipe import (
    RECIPE,
    Guest,
    build_kernel,
    fetch_tools,
    kernel_make,
    pack_initramfs,
    run,
)

VERSION = "7.2"
GIB = 1 << 30
STACKS = 80_000
SECONDS = 3600
"""The longest time that a guest may take."""

FALLOC_FL_INSERT_RANGE = 0x20
HEADER = 1 << 20
"""Number of bytes that are inserted for the headers of the ELF file."""
# QEMU's q35: memory from this size on is split, and the upper part begins at 4 GiB.
LOW, SPLIT, HIGH = 0x80000000, 0xB0000000, 0x100000000
PT_LOAD, PT_NOTE, RWX = 1, 4, 7
# Elf64_Ehdr and Elf64_Phdr.
EHDR, PHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")


def build_module(work: Path) -> Path:
    """Build the kernel and the module; return the module without debugging symbols."""
    build = build_kernel(VERSION, work)
    directory = build / "po-large"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(RECIPE / "large", directory)
    run(*kernel_make(VERSION, work), f"M={directory}", "modules")
    stripped = directory / "stripped.ko"
    run("strip", "-g", "-o", stripped, directory / "po_many.ko")
    return stripped


def make_initramfs(work: Path, module: Path, out: Path) -> None:
    root = out.parent / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "proc"):
        (root / name).mkdir(parents=True)
    shutil.copy(fetch_tools(VERSION, work) / "busybox", root / "bin/busybox")
    shutil.copy(RECIPE / "large/init", root / "init")
    shutil.copy(module, root / "po_many.ko")
    pack_initramfs(root, out)


def parameters(gib: int) -> str:
    """Return parameters of the module for a guest of that size."""
    stacks = min(STACKS, 10_000 * gib)
    order = 4 if gib >= 16 else 3
    return ",".join(
        f"{name}={value}"
        for name, value in (
            ("stacks", stacks),
            ("order", order),
            ("rounds", max(round(90_000 * gib / (stacks << order)), 1)),
            ("singles", 4700 * gib),
            ("listed", 2300 * gib),
            ("slab", 9200 * gib),
            ("areas", 26 * gib),
        )
    )


def boot(gib: int, build: Path, directory: Path) -> tuple[Path, bytes]:
    """
    Run a guest until it is ready.

    :return: The file that is its memory, and QEMU's dump of one page of it, for the notes.
    """
    ram, header = directory / f"{gib}.ram", directory / f"{gib}.header"
    ram.unlink(missing_ok=True)
    # Without ACPI, the kernel needs the address of QEMU's fw_cfg as a parameter, for its
    # vmcoreinfo.
    append = "console=ttyS0 rdinit=/init panic=-1 page_owner=on numa=fake=4 "
    append += f"qemu_fw_cfg.ioport=12@0x510:0:1:4 po.many={parameters(gib)}"
    guest = Guest(
        [
            "qemu-system-x86_64", "-M", "q35,accel=tcg,memory-backend=ram", "-cpu", "max",
            "-smp", "2", "-m", f"{gib}G", "-nographic", "-no-reboot", "-nodefaults",
            "-object", f"memory-backend-file,id=ram,size={gib}G,mem-path={ram},share=on",
            "-serial", "stdio", "-device", "vmcoreinfo",
            "-kernel", str(build / "arch/x86/boot/bzImage"),
            "-initrd", str(directory / "initramfs.gz"), "-append", append,
        ],
        directory,
    )  # fmt: skip
    if not guest.wait_for("READY", SECONDS):
        sys.exit(f"the guest did not get to its end: see {directory / 'console.log'}")
    page = {"paging": False, "protocol": f"file:{header}", "begin": LOW >> 1, "length": 4096}
    guest.monitor(("stop", {}), ("dump-guest-memory", page))
    guest.process.kill()
    guest.end(60)
    return ram, header.read_bytes()


def make_dump(ram: Path, header: bytes, out: Path) -> None:
    """
    Put the headers of an ELF dump in front of a guest's memory, without copying the memory.

    :param header: Dump of a part of the guest, whose notes are used.
    """
    ident, kind, machine, version, _, start, *_ = EHDR.unpack_from(header)
    segments = (
        PHDR.unpack_from(header, start + PHDR.size * number)
        for number in range(EHDR.unpack_from(header)[10])
    )
    offset, size = next((s[2], s[5]) for s in segments if s[0] == PT_NOTE)
    memory = ram.stat().st_size
    low = LOW if memory >= SPLIT else memory
    parts = [(0, 0, low), (HIGH, low, memory - low)][: 1 + (memory > low)]
    head = EHDR.pack(
        ident, kind, machine, version, 0, EHDR.size, 0, 0, EHDR.size, PHDR.size, 1 + len(parts),
        0, 0, 0,
    )  # fmt: skip
    head += PHDR.pack(PT_NOTE, 0, 4096, 0, 0, size, size, 4)
    for address, place, length in parts:
        head += PHDR.pack(PT_LOAD, RWX, HEADER + place, 0, address, length, length, 4096)
    libc = ctypes.CDLL(None, use_errno=True)
    with ram.open("r+b") as file:
        range_ = ctypes.c_int64(0), ctypes.c_int64(HEADER)
        if libc.fallocate64(file.fileno(), FALLOC_FL_INSERT_RANGE, *range_):
            sys.exit(f"{ram}: no range can be inserted: {os.strerror(ctypes.get_errno())}")
        file.write(head)
        file.seek(4096)
        file.write(header[offset : offset + size])
    ram.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("work"), help="directory for everything")
    parser.add_argument("gib", type=int, nargs="+", metavar="GIB", help="memory of a guest")
    args = parser.parse_args()
    work = args.work.resolve()
    module = build_module(work)
    build, directory = work / "build" / VERSION, work / "large"
    directory.mkdir(exist_ok=True)
    make_initramfs(work, module, directory / "initramfs.gz")
    for gib in args.gib:
        dump = directory / f"{gib}.elf"
        make_dump(*boot(gib, build, directory), dump)
        print(f"{gib}GiB={dump}:{build / 'vmlinux'}", flush=True)


if __name__ == "__main__":
    main()
