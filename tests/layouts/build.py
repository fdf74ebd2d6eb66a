#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compile layouts of kernels that can no longer be built.

A layout is one of versions/*.h. With main.c it becomes a program that has its kernel's structures
and symbols, fills them, prints the page_owner file that this kernel would print, and dumps its own
memory. The program is the vmlinux of that dump.

    tests/layouts/build.py DIR          compile them all into DIR/NAME/{vmlinux,vmcore,page_owner}
    tests/layouts/build.py --check      the same, and compare what drgn-pageowner makes of them
    tests/layouts/build.py --pack       the same, and replace layouts.tar.xz, which the tests use

Needs a C compiler for x86-64. Standard library only, but for --check.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "layouts.tar.xz"
CACHE = HERE.parent.parent / "testdata/.cache/layouts"
_UNPACK: dict[str, Any] = runpy.run_path(str(HERE.parent.parent / "testdata/unpack.py"))
_INSTALL, _COPY_SPARSE = _UNPACK["install"], _UNPACK["copy_sparse"]

FLATMEM, SPARSEMEM, SPARSEMEM_VMEMMAP = "FLATMEM", "SPARSEMEM", "SPARSEMEM_VMEMMAP"
ALL = (FLATMEM, SPARSEMEM, SPARSEMEM_VMEMMAP)
LAYOUTS = {
    "linux-3.19": ALL,
    "linux-4.4": (FLATMEM,),
    "linux-4.6": (SPARSEMEM_VMEMMAP,),
    "linux-4.8": (SPARSEMEM,),
    "linux-4.9": ALL,
    "linux-4.19": (SPARSEMEM_VMEMMAP,),
    "linux-5.4": ALL,
    "linux-5.12": (SPARSEMEM_VMEMMAP,),
    "linux-5.15": (FLATMEM,),
    "linux-6.4": (SPARSEMEM,),
    "linux-6.8": (SPARSEMEM_VMEMMAP,),
    "linux-6.8.12": (SPARSEMEM_VMEMMAP,),
    "backport-4.14-free": (FLATMEM,),
    "backport-4.18": (SPARSEMEM_VMEMMAP,),
    "backport-active": (SPARSEMEM,),
    "backport-5.15-extra": (SPARSEMEM_VMEMMAP,),
}
"""Layout -> memory models for which it is compiled."""

NAMES = [f"{layout}-{model}" for layout, models in LAYOUTS.items() for model in models]


def compiler() -> str | None:
    """Return the C compiler; ``None`` if this machine has none that can build the programs."""
    return shutil.which("cc") if os.uname().machine == "x86_64" else None


def build(directory: Path, name: str) -> Path:
    """Compile and run the layout *name* ("linux-3.19-FLATMEM"); return ``directory/name``."""
    layout, model = name.rsplit("-", 1)
    target = directory / name
    target.mkdir(parents=True, exist_ok=True)
    command = [
        compiler() or "cc", "-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-no-pie",
        "-D_GNU_SOURCE", f"-DMEMORY_MODEL={model}", f'-DLAYOUT="versions/{layout}.h"',
        # The paths in DWARF must be those of the kernel, relative to this directory.
        "-I.", "-Wl,--build-id=sha1", "-Wl,-T,rodata.ld", "main.c", "-o", target / "vmlinux",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=HERE)
    with open(target / "page_owner", "wb") as out:
        subprocess.run([target / "vmlinux", target / "vmcore"], check=True, stdout=out)
    return target


def pack(directory: Path, names: Iterable[str]) -> None:
    """Write the archive of all layouts."""
    with tarfile.open(BUNDLE, "w:xz", preset=6) as tar:
        for kind in ("vmlinux", "page_owner", "vmcore"):
            for name in names:
                info = tarfile.TarInfo(f"{name}/{kind}")
                path = directory / name / kind
                info.size = path.stat().st_size
                with open(path, "rb") as file:
                    tar.addfile(info, file)


def unpack(cache: Path = CACHE) -> Path:
    """Unpack the archive into *cache*, if necessary; return *cache*, which has a directory for each
    layout."""
    _INSTALL(BUNDLE, cache, _fill)
    return cache


def _fill(packed: BinaryIO, directory: Path) -> None:
    """Unpack the bundle *packed* into the new *directory*."""
    with tarfile.open(fileobj=packed) as tar:
        for info in tar:
            path = directory / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(info)
            assert source is not None
            _COPY_SPARSE(source, path)


def check(directory: Path, name: str) -> bool:
    """Return whether ``list --format debugfs`` prints the same text for a layout as the layout's
    program."""
    target = directory / name
    ours = subprocess.run(
        [
            sys.executable, "-m", "drgn_pageowner", "-c", target / "vmcore",
            "-s", target / "vmlinux", "list", "--format", "debugfs",
        ],
        check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    same = ours == (target / "page_owner").read_bytes()
    print(f"{name}: {ours.count(b'PFN ')} records, {'equal' if same else 'DIFFERENT'}")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pack", action="store_true")
    args = parser.parse_args()
    if compiler() is None:
        parser.error("no C compiler for x86-64 here")
    with tempfile.TemporaryDirectory() as temporary:
        directory: Path = args.directory or Path(temporary)
        for name in NAMES:
            build(directory.resolve(), name)
        if args.pack:
            pack(directory, NAMES)
        if args.check:
            results = [check(directory, name) for name in NAMES]
            return int(not all(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
