#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Unpack the bundled dumps: ``testdata/unpack.py [DUMP...]`` prints where each one is.

A dump DUMP ("linux-6.12/kdump") becomes .cache/DUMP/{vmcore,truth/...}, its kernel's symbols
.cache/linux-6.12/{vmlinux,modules/...}. Nothing is unpacked twice. Standard library only.
"""

from __future__ import annotations

import lzma
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

TESTDATA = Path(__file__).resolve().parent
CACHE = TESTDATA / ".cache"


def names() -> list[str]:
    """Every bundled dump."""
    return sorted(
        str(path.parent.relative_to(TESTDATA)) for path in TESTDATA.glob("linux-*/*/vmcore.xz")
    )


def unpack(name: str) -> Path:
    """
    Unpack one dump and its kernel's symbols; return the dump's directory.
    """
    kernel = TESTDATA / name.split("/")[0]
    _file(kernel / "vmlinux.xz", CACHE / kernel.name / "vmlinux")
    _archive(kernel / "modules.tar.xz", CACHE / kernel.name / "modules")
    _file(TESTDATA / name / "vmcore.xz", CACHE / name / "vmcore")
    _archive(TESTDATA / name / "truth.tar.xz", CACHE / name / "truth")
    return CACHE / name


def _file(source: Path, target: Path) -> None:
    if not source.exists() or _current(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two test runs may do this at once: each replaces the whole file.
    with (
        tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out,
        lzma.open(source) as packed,
    ):
        _copy_sparse(packed, out)
    os.replace(out.name, target)
    os.utime(target, ns=(source.stat().st_mtime_ns,) * 2)


def _copy_sparse(packed: lzma.LZMAFile, out: tempfile._TemporaryFileWrapper[bytes]) -> None:
    while chunk := packed.read(1 << 20):
        if chunk.count(0) == len(chunk):
            out.seek(len(chunk), os.SEEK_CUR)
        else:
            out.write(chunk)
    out.truncate()


def _archive(source: Path, target: Path) -> None:
    if not source.exists() or _current(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=target.parent))
    with tarfile.open(source) as tar:
        tar.extractall(directory, filter="data")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(directory, target)
    os.utime(target, ns=(source.stat().st_mtime_ns,) * 2)


def _current(source: Path, target: Path) -> bool:
    return target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns


if __name__ == "__main__":
    for dump in sys.argv[1:] or names():
        print(unpack(dump))
