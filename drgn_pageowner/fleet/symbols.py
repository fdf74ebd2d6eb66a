# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the vmlinux of a kernel by its build ID: in directories, and from debuginfod servers."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import json
import lzma
import mmap
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from drgn_pageowner.cache import cache_directory, layout_path
from drgn_pageowner.elf import Elf
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.storage.files import replacing

__all__ = ("NoSymbolsError", "SymbolStore", "fits")

# Paths of a kernel's debugging symbols, relative to a directory with symbols. _BY_ID has the paths
# by build ID, which are the same in all distributions; _BY_RELEASE those by kernel release.
_BY_ID = (
    ".build-id/{head}/{tail}.debug",
    "lib/debug/.build-id/{head}/{tail}.debug",
    "usr/lib/debug/.build-id/{head}/{tail}.debug",
    "{id}/debuginfo",
    "{id}/vmlinux",
    "{id}",
    "vmlinux-{id}",
)
_BY_RELEASE = (
    # Debian (linux-image-*-dbg) and Ubuntu (linux-image-*-dbgsym).
    "usr/lib/debug/boot/vmlinux-{release}",
    "usr/lib/debug/lib/modules/{release}/vmlinux",
    # Fedora, RHEL (kernel-debuginfo).
    "usr/lib/debug/usr/lib/modules/{release}/vmlinux",
    # SUSE (kernel-*-debuginfo), with the suffix .debug.
    "usr/lib/modules/{release}/vmlinux",
    "lib/modules/{release}/vmlinux",
    "lib/modules/{release}/build/vmlinux",
    "lib/debug/lib/modules/{release}/vmlinux",
    "lib/debug/boot/vmlinux-{release}",
    "boot/vmlinux-{release}",
    "vmlinux-{release}",
    "{release}/vmlinux",
)
_PACKED = (".xz", ".gz", ".zst", ".bz2")
_SUFFIXES = ("", ".debug", *_PACKED, *(f".debug{suffix}" for suffix in _PACKED))
# Names of files that may contain symbols, in a recursive search of a directory.
_NAME = re.compile(r"vmlinux.*|vmlinuz?-?.*\.debug(\.(xz|gz|zst|bz2))?|[0-9a-f]{38}\.debug")
_SECONDS = 600
_PIECE = 1 << 20


class NoSymbolsError(PageOwnerError):
    """Raised if the symbols of a kernel are neither in a directory nor on a server."""


class SymbolStore:
    """Finds debugging symbols in directories and on servers, and caches the results."""

    def __init__(self, directories: Sequence[str], cache: str | None = None) -> None:
        """
        :param directories: Directories to search, in this order.
        :param cache: Directory for unpacked and downloaded files, which all processes share.
        """
        self._directories = [os.path.abspath(path) for path in directories]
        self._base = cache or cache_directory()
        self._cache = os.path.join(self._base, "symbols")

    def find(self, build_id: str | None, release: str | None) -> str:
        """
        Return the path of a file with the kernel's debugging symbols.

        :param build_id: ``BUILD-ID`` of VMCOREINFO, in hex; ``None`` before Linux kernel commit
            0935288c6e00 ("kdump: append kernel build-id string to VMCOREINFO") (in v5.9).
        :param release: ``OSRELEASE`` of VMCOREINFO.
        :raises NoSymbolsError: if no such file is found
        """
        if build_id is not None and fits(pack := layout_path(build_id, self._base), build_id, None):
            return pack
        name = build_id or f"release-{release}"
        folder = os.path.join(self._cache, name.replace("/", "_"))
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise PageOwnerError(f"cannot write {folder}: {error.strerror or error}") from error
        # If several workers need the same file, one unpacks it and the others wait.
        with _locked(os.path.join(folder, "lock")):
            known = self._known(folder, build_id)
            if known is not None:
                return known
            found = self._search(folder, build_id, release) or self._download(folder, build_id)
            if found is None:
                raise NoSymbolsError(
                    f"no vmlinux of {release or 'an unknown kernel'} with build ID "
                    f"{build_id or '(unknown)'}: install the package with its debugging symbols, "
                    "or name the directory that has it with --symbols-store"
                )
            _write(os.path.join(folder, "found.json"), {"path": found})
            return found

    def layout(self, build_id: str, make: Callable[[str], bool]) -> str | None:
        """
        Return the path of the kernel's layout pack in the cache; make the pack if there is none.

        :param build_id: ``BUILD-ID`` of VMCOREINFO, in hex.
        :param make: Function that writes the pack to a path, and returns whether it succeeded.
        :return: ``None`` if the pack cannot be made.
        """
        path = layout_path(build_id, self._base)
        if fits(path, build_id, None):
            return path
        folder = os.path.join(self._cache, build_id)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.makedirs(folder, exist_ok=True)
            with _locked(os.path.join(folder, "lock")):
                good = fits(path, build_id, None) or (make(path) and fits(path, build_id, None))
        except OSError:
            # A pack only saves time, so the job continues without.
            return None
        return path if good else None

    def _known(self, folder: str, build_id: str | None) -> str | None:
        try:
            with open(os.path.join(folder, "found.json")) as file:
                path = json.load(file)["path"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        inside = isinstance(path, str) and any(
            path.startswith(where + os.sep) for where in (*self._directories, self._cache)
        )
        if not inside:
            return None
        elf = Elf.read(path)
        good = elf is not None and elf.has_dwarf and (build_id is None or elf.build_id == build_id)
        return path if good else None

    def _search(self, folder: str, build_id: str | None, release: str | None) -> str | None:
        for path in self._candidates(build_id, release):
            found = self._usable(path, folder, build_id, release)
            if found is not None:
                return found
        for directory in self._directories:
            for path in _walk(directory):
                if self._may_be(path, build_id):
                    found = self._usable(path, folder, build_id, release)
                    if found is not None:
                        return found
        return None

    def _candidates(self, build_id: str | None, release: str | None) -> Iterator[str]:
        values = {"release": release}
        layouts: tuple[str, ...] = _BY_RELEASE if release and "/" not in release else ()
        if build_id is not None:
            values |= {"id": build_id, "head": build_id[:2], "tail": build_id[2:]}
            layouts = (*_BY_ID, *layouts)
        for directory in self._directories:
            for layout in layouts:
                base = os.path.join(directory, layout.format(**values))
                for suffix in _SUFFIXES:
                    if os.path.isfile(base + suffix):
                        yield base + suffix

    def _usable(
        self, path: str, folder: str, build_id: str | None, release: str | None
    ) -> str | None:
        """
        Return the path of a file with the kernel's symbols: *path*, or its unpacked copy.

        :return: ``None`` if the file is not that of the kernel.
        """
        if not path.endswith(_PACKED):
            return path if fits(path, build_id, release) else None
        target = os.path.join(folder, "vmlinux")
        try:
            with _unpacked(path) as source, replacing(target) as file:
                shutil.copyfileobj(source, file, _PIECE)
        except (OSError, EOFError, lzma.LZMAError, ValueError, PageOwnerError):
            # Ignore a damaged file, because another file may have the symbols.
            return None
        elf = Elf.read(target)
        if elf is not None and elf.build_id is not None:
            self._remember(path, elf.build_id)
        if fits(target, build_id, release):
            return target
        with suppress(OSError):
            os.unlink(target)
        return None

    def _may_be(self, path: str, build_id: str | None) -> bool:
        """
        Return whether a file may have the symbols of the kernel with this build ID.

        False only for a packed file that was unpacked before and had another build ID.
        """
        if build_id is None or not path.endswith(_PACKED):
            return True
        known = self._index().get(_stamp(path))
        return known is None or known == build_id

    def _index(self) -> dict[str, str]:
        try:
            with open(os.path.join(self._cache, "packed.json")) as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, path: str, build_id: str) -> None:
        with _locked(os.path.join(self._cache, "lock")):
            known = self._index() | {_stamp(path): build_id}
            _write(os.path.join(self._cache, "packed.json"), known)

    def _download(self, folder: str, build_id: str | None) -> str | None:
        """
        Download the symbols from a server in ``$DEBUGINFOD_URLS``.

        :param folder: Directory to download to.
        :return: Path of the downloaded file; ``None`` if no server has the symbols.
        """
        if build_id is None:
            return None
        target = os.path.join(folder, "vmlinux")
        for server in os.environ.get("DEBUGINFOD_URLS", "").split():
            url = f"{server.rstrip('/')}/buildid/{build_id}/debuginfo"
            try:
                with (
                    urllib.request.urlopen(url, timeout=_SECONDS) as source,
                    replacing(target) as file,
                ):
                    shutil.copyfileobj(source, file, _PIECE)
            except (OSError, ValueError):
                continue
            if fits(target, build_id, None):
                return target
        return None


def fits(path: str, build_id: str | None, release: str | None) -> bool:
    """
    Return whether the ELF file *path* has the DWARF of a kernel.

    :param build_id: Build ID of the kernel; ``None`` if unknown, then *release* is compared.
    """
    elf = Elf.read(path)
    if elf is None or not elf.has_dwarf:
        return False
    if build_id is not None:
        return elf.build_id == build_id
    return release is not None and _has_banner(path, release)


def _has_banner(path: str, release: str) -> bool:
    """Return whether the file contains the text of ``linux_banner`` for *release*."""
    banner = f"Linux version {release} ".encode()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return data.find(banner) >= 0
    except (OSError, ValueError):
        return False


def _walk(directory: str) -> Iterator[str]:
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            if _NAME.fullmatch(name) and os.path.isfile(path := os.path.join(folder, name)):
                yield path


def _stamp(path: str) -> str:
    status = os.stat(path)
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


@contextmanager
def _unpacked(path: str) -> Iterator[Any]:
    """Open a compressed file for reading its uncompressed contents."""
    openers: dict[str, Callable[[str], Any]] = {
        ".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open,
    }  # fmt: skip
    opener = openers.get(os.path.splitext(path)[1])
    if opener is not None:
        with opener(path) as file:
            yield file
        return
    try:
        process = subprocess.Popen(["zstd", "-dcq", "--", path], stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise PageOwnerError(f"{path} needs zstd: install it, or unpack the file") from None
    with process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode:
        raise OSError(f"{path} cannot be unpacked")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: str, value: object) -> None:
    with replacing(path) as file:
        file.write(json.dumps(value).encode())
