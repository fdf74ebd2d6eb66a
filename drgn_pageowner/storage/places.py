# SPDX-License-Identifier: LGPL-2.1-or-later
"""Access files by path or URL: local ones, and those in object stores (``s3://``, ``gs://``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from drgn_pageowner.errors import PageOwnerError, one_line
from drgn_pageowner.extras import extra
from drgn_pageowner.storage.files import cannot_write, replacing

__all__ = ("Entry", "Place", "is_url")

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NEEDS = "reading from and writing to object stores"


def is_url(path: str) -> bool:
    """Return whether *path* is a URL rather than a path of the local file system."""
    return _URL.match(path) is not None


@dataclass(frozen=True)
class Entry:
    """A file in a directory."""

    path: str
    """Path relative to the directory that was listed, with ``/`` as separator."""
    size: int
    """Size in bytes."""


class Place:
    """Path or URL of a directory or a file, with the file system that contains it."""

    def __init__(self, where: str) -> None:
        """
        :raises PageOwnerError: if no file system is known for the URL
        """
        self.name = where
        """The path or URL, as the user wrote it."""
        self.scheme = urlsplit(where).scheme.lower() if is_url(where) else "file"
        self._fs: Any = None
        if self.scheme == "file":
            self.root = os.path.abspath(urlsplit(where).path if is_url(where) else where)
        else:
            with self._errors("open"):
                self._fs, self.root = _file_system(where, self.scheme)

    @property
    def is_local(self) -> bool:
        """Whether the place is in the local file system."""
        return self._fs is None

    @property
    def file_system(self) -> Any:
        """The ``pyarrow.fs.FileSystem`` that contains the place."""
        return (
            extra("pyarrow.fs", "parquet", _NEEDS).LocalFileSystem() if self.is_local else self._fs
        )

    def path(self, relative: str = "") -> str:
        """Return the path on the file system of a file below this directory."""
        return f"{self.root}/{relative}" if relative else self.root

    def url(self, relative: str = "") -> str:
        """Return the URL or local path of a file below this directory."""
        return self.path(relative) if self.is_local else f"{self.scheme}://{self.path(relative)}"

    def exists(self, relative: str = "") -> bool:
        """Return whether a file or directory below this directory exists."""
        return self._info(relative) is not None

    def is_directory(self) -> bool:
        """Return whether the place is a directory."""
        info = self._info("")
        return info is not None and not info.is_file

    def size(self, relative: str = "") -> int | None:
        """Return the size of a file in bytes; ``None`` if the file does not exist."""
        info = self._info(relative)
        return info.size if info is not None and info.is_file else None

    def _info(self, relative: str) -> Any:
        fs = extra("pyarrow.fs", "parquet", _NEEDS)
        with self._errors("read"):
            info = self.file_system.get_file_info(self.path(relative))
        return info if info.type != fs.FileType.NotFound else None

    def files(self, relative: str = "") -> list[Entry]:
        """
        List all files below a directory, sorted by path; empty if the directory does not exist.

        Files whose names begin with a dot are omitted, because they are not complete yet.
        """
        fs = extra("pyarrow.fs", "parquet", _NEEDS)
        root = self.path(relative)
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        with self._errors("read"):
            found = self.file_system.get_file_info(selector)
        return sorted(
            (
                Entry(info.path[len(root) :].lstrip("/"), info.size)
                for info in found
                if info.is_file and not info.base_name.startswith(".")
            ),
            key=lambda entry: entry.path,
        )

    def read(self, relative: str = "") -> bytes | None:
        """Return the contents of a file; ``None`` if the file does not exist."""
        if not self.exists(relative):
            return None
        with self._errors("read"), self.file_system.open_input_stream(self.path(relative)) as file:
            data: bytes = file.read()
            return data

    @contextmanager
    def opened(self, relative: str = "") -> Iterator[Any]:
        """Open a file for reading with random access."""
        with self._errors("read"), self.file_system.open_input_file(self.path(relative)) as file:
            yield file

    def write(self, relative: str, data: bytes | memoryview) -> None:
        """
        Write a file atomically, so that readers never see a part of it; create its directories.

        :raises PageOwnerError: if the file cannot be written
        """
        path = self.path(relative)
        if self.is_local:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with replacing(path) as file:
                    file.write(data)
            except OSError as error:
                raise cannot_write(path, error) from error
            return
        # An object store shows an object only when its upload has completed.
        with self._errors("write"), self._fs.open_output_stream(path) as stream:
            stream.write(data)

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except PageOwnerError:
            raise
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise PageOwnerError(f"cannot {verb} {self.name}: {one_line(error)}") from error


def _file_system(where: str, scheme: str) -> tuple[Any, str]:
    """Return the ``pyarrow.fs.FileSystem`` of a URL, and the path on it."""
    fs = extra("pyarrow.fs", "parquet", _NEEDS)
    parts = urlsplit(where)
    path = f"{parts.netloc}{parts.path}".rstrip("/")
    if scheme == "s3":
        return _s3(fs, parse_qs(parts.query)), path
    try:
        found, path = fs.FileSystem.from_uri(where)
    except (ValueError, NotImplementedError):
        fsspec = extra("fsspec", "fleet", f"reading {scheme}://")
        found = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    return found, str(path).rstrip("/")


def _s3(fs: Any, query: dict[str, list[str]]) -> Any:
    """Return the S3 file system, with the endpoint of the URL or of the AWS environment."""
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {name: values[0] for name, values in query.items()}
    if environment and "endpoint_override" not in options:
        endpoint = urlsplit(environment)
        options["scheme"] = endpoint.scheme
        options["endpoint_override"] = endpoint.netloc
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options.setdefault("region", region)
    return fs.S3FileSystem(**options)
