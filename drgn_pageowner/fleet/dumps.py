# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find dumps: by patterns, in directories and object stores, and in lists."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.storage.identity import DumpIdentity, identify
from drgn_pageowner.storage.places import Place, is_url

__all__ = ("find_dumps", "identity_of", "on_this_machine")

_LIST = "@"
_COPY = 16 << 20
# Suffixes of files that are skipped in directories, because they are not dumps. A file that the
# user names is never skipped.
_OTHERS = (".parquet", ".txt", ".log", ".json", ".html", ".md", ".ko", ".debug", ".sha256", ".py")


def find_dumps(wheres: Sequence[str]) -> list[str]:
    """
    Find the dumps that the user named.

    :param wheres: Paths or URLs of dumps; paths or URLs of directories, which are searched for
        dumps; patterns with ``*``, ``?``, ``[...]`` and ``**``; or ``@FILE``, a file with any of
        these, one on each line.
    :return: Paths and URLs of the dumps, without duplicates.
    :raises PageOwnerError: if a list or a directory cannot be read
    :raises UsageError: if a pattern matches nothing
    """
    found: list[str] = []
    for where in wheres:
        if where.startswith(_LIST):
            found += find_dumps(_lines(where[len(_LIST) :]))
        elif is_url(where):
            found += _in_store(where)
        elif os.path.isdir(where):
            found += _in_directory(where)
        elif os.path.lexists(where) or not glob.has_magic(where):
            found.append(where)
        else:
            matches = sorted(glob.glob(where, recursive=True))
            if not matches:
                raise UsageError(f"{where} matches nothing")
            for path in matches:
                found += _in_directory(path) if os.path.isdir(path) else [path]
    return list(dict.fromkeys(found))


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(errors="surrogateescape")
    except OSError as error:
        raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _in_store(where: str) -> list[str]:
    place = Place(where)
    if place.is_local:
        return find_dumps([place.root])
    if not place.is_directory():
        return [where]
    return [
        f"{place.url(entry.path)}{_query(where)}"
        for entry in place.files()
        if not entry.path.endswith(_OTHERS)
    ]


def _query(where: str) -> str:
    """Return the query string of a URL with its ``?``: options of the object store."""
    _, mark, query = where.partition("?")
    return mark + query


def _in_directory(where: str) -> list[str]:
    """Return the paths of the files under the directory *where* that begin like dumps."""
    found = []
    for folder, folders, names in os.walk(where):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith(".") or name.endswith(_OTHERS) or not os.path.isfile(path):
                continue
            try:
                identity = identity_of(path)
            except (OSError, PageOwnerError):
                # Keep the file, so that the ingest reports that it cannot be read.
                found.append(path)
                continue
            if identity.is_dump and identity.is_core:
                found.append(path)
    return found


def identity_of(where: str) -> DumpIdentity:
    """
    Identify the dump *where*, a path or a URL.

    :raises PageOwnerError: if *where* is not a regular file, or cannot be read
    """
    place = Place(where)
    if place.is_local:
        try:
            if not os.path.isfile(place.root):
                # Do not open it: opening a pipe would wait for a writer, and a device has no end.
                os.stat(place.root)
                raise PageOwnerError(f"{where} is no regular file")
            with open(place.root, "rb") as file:
                return identify(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise PageOwnerError(f"cannot read {where}: {error.strerror or error}") from error
    size = place.size()
    if size is None:
        raise PageOwnerError(f"cannot read {where}: there is no such object")
    with place.opened() as stream:
        return identify(stream, size)


@contextmanager
def on_this_machine(where: str, scratch: str | None = None) -> Iterator[str]:
    """
    Yield a path in the local file system of the dump *where*.

    A dump in an object store is copied to this machine, and the copy is removed when the ``with``
    block ends.

    :param scratch: Directory for the copy; the system's directory for temporary files by default.
    :raises PageOwnerError: if the dump cannot be copied
    """
    place = Place(where)
    if place.is_local:
        yield place.root
        return
    size = place.size() or 0
    with tempfile.TemporaryDirectory(prefix="drgn-pageowner-", dir=scratch) as folder:
        free = shutil.disk_usage(folder).free
        if free < size:
            raise PageOwnerError(
                f"there is no room for {where} in {folder}: it has {size:,} bytes, and {free:,} "
                "are free; name another directory with --scratch"
            )
        path = os.path.join(folder, "vmcore")
        with place.opened() as source, open(path, "wb") as target:
            while piece := source.read(_COPY):
                target.write(piece)
        yield path
