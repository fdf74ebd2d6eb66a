# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and directories here or in an object store: a path or a URL (``s3://``, ``gs://``)."""

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
    """Return whether *path* is a URL, and not a path of this machine."""
    return _URL.match(path) is not None


@dataclass(frozen=True)
class Entry:
    """A file in a directory."""

    path: str
    """Relative to the directory that was listed, with ``/`` in between."""
    size: int
    """Bytes."""


class Place:
    """A directory or a file, and the file system that has it."""

    def __init__(self, where: str) -> None:
        """
        :raises PageOwnerError: if no file system is known for the URL
        """
        self.name = where
        """As it was given."""
        self.scheme = urlsplit(where).scheme.lower() if is_url(where) else "file"
        self._fs: Any = None
        if self.scheme == "file":
            self.root = os.path.abspath(urlsplit(where).path if is_url(where) else where)
        else:
            with self._errors("open"):
                self._fs, self.root = _file_system(where, self.scheme)

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return self._fs is None

    @property
    def file_system(self) -> Any:
        """Its ``pyarrow.fs.FileSystem``."""
        return (
            extra("pyarrow.fs", "parquet", _NEEDS).LocalFileSystem() if self.is_local else self._fs
        )

    def path(self, relative: str = "") -> str:
        """Return the path of a file under it, on its file system."""
        return f"{self.root}/{relative}" if relative else self.root

    def url(self, relative: str = "") -> str:
        """Return the name that a URL or path of a file under it has."""
        return self.path(relative) if self.is_local else f"{self.scheme}://{self.path(relative)}"

    def exists(self, relative: str = "") -> bool:
        """Return whether there is such a file or directory."""
        return self._info(relative) is not None

    def is_directory(self) -> bool:
        """Return whether it is a directory."""
        info = self._info("")
        return info is not None and not info.is_file

    def size(self, relative: str = "") -> int | None:
        """Return the bytes of a file; ``None`` if there is none."""
        info = self._info(relative)
        return info.size if info is not None and info.is_file else None

    def _info(self, relative: str) -> Any:
        fs = extra("pyarrow.fs", "parquet", _NEEDS)
        with self._errors("read"):
            info = self.file_system.get_file_info(self.path(relative))
        return info if info.type != fs.FileType.NotFound else None

    def files(self, relative: str = "") -> list[Entry]:
        """
        List all files under it, in the order of their paths; none if there is no such directory.

        Files whose names begin with a dot are not complete yet.
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
        """Return the bytes of a file; ``None`` if there is none."""
        if not self.exists(relative):
            return None
        with self._errors("read"), self.file_system.open_input_stream(self.path(relative)) as file:
            data: bytes = file.read()
            return data

    @contextmanager
    def opened(self, relative: str = "") -> Iterator[Any]:
        """Open a file for reading at any place."""
        with self._errors("read"), self.file_system.open_input_file(self.path(relative)) as file:
            yield file

    def write(self, relative: str, data: bytes | memoryview) -> None:
        """
        Write a file as a whole, and the directories that it is in: a reader sees all of it or none.

        :raises PageOwnerError: if it cannot be written
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
        # An object is there when the request that sends it ends.
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
    """Return S3; the endpoint is that of the URL, or of the AWS tools' environment."""
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
