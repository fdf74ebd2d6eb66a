#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Unpack the bundled dumps: ``testdata/unpack.py [DUMP...]`` prints where each one is.

A dump DUMP ("linux-6.12/kdump") becomes .cache/DUMP/{vmcore,truth/...}, its kernel's symbols
.cache/linux-6.12/{vmlinux,modules/...}. Nothing is unpacked twice, and any number of processes may
do this at the same time. Uses only the standard library.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

TESTDATA = Path(__file__).resolve().parent
CACHE = TESTDATA / ".cache"


def names() -> list[str]:
    """Return the names of all bundled dumps."""
    return sorted(
        str(path.parent.relative_to(TESTDATA)) for path in TESTDATA.glob("linux-*/*/vmcore.xz")
    )


def unpack(name: str, cache: Path = CACHE) -> Path:
    """Unpack one dump and its kernel's symbols into *cache*, and return the dump's directory."""
    kernel = TESTDATA / name.split("/")[0]
    install(kernel / "vmlinux.xz", cache / kernel.name / "vmlinux", _unpack_file)
    install(kernel / "modules.tar.xz", cache / kernel.name / "modules", _unpack_archive)
    install(TESTDATA / name / "vmcore.xz", cache / name / "vmcore", _unpack_file)
    install(TESTDATA / name / "truth.tar.xz", cache / name / "truth", _unpack_archive)
    return cache / name


def install(source: Path, target: Path, fill: Callable[[BinaryIO, Path], None]) -> None:
    """
    Make *target* from *source*, unless it exists and was made from a file with the same contents.

    Only one process at a time does so, the others wait for it. *target* is complete whenever it
    exists: it is made under another name, and renamed. The digest of *source* is stored next to it;
    modification times cannot be used, because every checkout sets new ones.

    :param fill: Function that writes the contents of the opened *source* to a new path.
    """
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp = target.with_name(f".{target.name}.sha256")
    with open(source, "rb") as packed, open(stamp, "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
        lock.seek(0)
        if target.exists() and lock.read() == digest:
            return
        # Remove the old digest before the new target is in place.
        lock.truncate(0)
        packed.seek(0)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            fresh = Path(temporary) / "new"
            fill(packed, fresh)
            if target.is_dir():
                # A directory that is not empty cannot be replaced in one step.
                target.rename(Path(temporary) / "old")
            fresh.replace(target)
        lock.write(digest)


def copy_sparse(source: IO[bytes], path: Path) -> None:
    """Copy *source* to the new file *path*, with holes in place of zeros."""
    with open(path, "wb") as out:
        while chunk := source.read(1 << 20):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate()


def _unpack_file(packed: BinaryIO, path: Path) -> None:
    with lzma.open(packed) as source:
        copy_sparse(source, path)


def _unpack_archive(packed: BinaryIO, path: Path) -> None:
    with tarfile.open(fileobj=packed) as tar:
        tar.extractall(path, filter="data")


if __name__ == "__main__":
    for dump in sys.argv[1:] or names():
        print(unpack(dump))
