# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The file format: a Parquet file of records that contains other tables as well.

The Parquet table contains the records, so any Parquet reader can show them. Everything else is
stored before the first row group or after the last one, where Parquet allows unknown data: tables
as Arrow IPC streams and documents as JSON, both compressed. The key-value metadata of the Parquet
file has their positions. docs/formats.md describes the format.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from drgn_pageowner.errors import PageOwnerError, one_line
from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.extras import extra
from drgn_pageowner.model.arrays import Array, places_of, slices
from drgn_pageowner.model.columns import STORED
from drgn_pageowner.model.packed import Packing
from drgn_pageowner.model.scratch import large_empty
from drgn_pageowner.model.threads import allowed_threads, while_next
from drgn_pageowner.storage.check import (
    TABLES,
    MalformedError,
    check_json,
    columns_of_table,
    record_columns,
    require,
    rows_of_stream,
)
from drgn_pageowner.storage.files import cannot_write, replacing

__all__ = (
    "VERSION",
    "Columns",
    "Container",
    "ContainerWriter",
    "JoinedColumns",
    "RecordRows",
    "fast_packing",
    "new_container",
    "packed_tables",
)

VERSION = 1
"""The version of the format; a reader accepts all files with this version or an earlier one."""

_KEY = "drgn_pageowner"
_ROWS = 1 << 20
# Number of records from which on a part is large enough.
_LEAST_ROWS = 1 << 19
# Number of bytes of a file that are copied together.
_COPIED = 1 << 20
# Level 9 takes four times as long as level 3, for files that are hardly smaller.
_LEVEL, _LEVEL_OF_LARGE = 9, 3
_LARGE = 64 << 20
# Number of rows of a table that are converted and compressed together.
_BATCH = 1 << 21
# TASK_COMM_LEN.
_COMM = 16
_NEEDS = "reading and saving snapshots"
# _LEAST: columns that the records in every file have. _ALWAYS: columns that records have if they
# were read from memory and not from a text.
_LEAST = frozenset(("pfn", "order", "allocated", "handle"))
_ALWAYS = _LEAST | {
    "gfp_mask",
    "migratetype",
    "pageblock_migratetype",
    "page_flags",
    "node",
    "zone",
}
# Columns to delta-encode; the others have few distinct values and are dictionary-encoded.
_DIFFERENCES = tuple(name for name, column in STORED.items() if column.differences)

Columns = dict[str, Any]
"""Columns of a table by name: each an array of shape ``(n,)``, or a list of strings. If they are
written, something that has a length and takes slices as an array does is enough."""


def _pyarrow() -> Any:
    return extra("pyarrow", "parquet", _NEEDS)


def _parquet() -> Any:
    return extra("pyarrow.parquet", "parquet", _NEEDS)


def _table(columns: Mapping[str, Any]) -> Any:
    pa = _pyarrow()
    arrays, fields = [], []
    for name, values in columns.items():
        array = _of_numpy(values) if isinstance(values, np.ndarray) else _of_texts(values)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=bool(array.null_count)))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


# Arrow arrays are made from buffers, to save 30 MB of memory, which a capture kernel may not have:
# pyarrow.array() would import pandas if it is installed, and dictionary_encode() would load another
# library of Arrow.


def _of_numpy(values: Array) -> Any:
    """Convert numbers, or names of at most 16 bytes, to an Arrow array."""
    pa = _pyarrow()
    values, count = np.ascontiguousarray(values), len(values)
    if values.dtype.kind == "S":
        lengths = np.char.str_len(values)
        offsets = np.zeros(count + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        rows = values.view(np.uint8).reshape(count, -1) if count else np.zeros((0, 1), np.uint8)
        text = rows[np.arange(rows.shape[1]) < lengths[:, None]].tobytes()
        return pa.Array.from_buffers(
            pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(text)], 0
        )
    if values.dtype == bool:
        data = np.packbits(values, bitorder="little")
    else:
        data = values.astype(values.dtype.newbyteorder("<"), copy=False)
    type_ = pa.from_numpy_dtype(values.dtype.newbyteorder("="))
    return pa.Array.from_buffers(type_, count, [None, pa.py_buffer(data)], 0)


def _of_texts(values: Sequence[str | None]) -> Any:
    """Convert strings to an Arrow array with a dictionary; bytes that are not UTF-8 are escaped."""
    pa = _pyarrow()
    codes: dict[str, int] = {}
    indices = np.array(
        [-1 if text is None else codes.setdefault(text, len(codes)) for text in values], np.int32
    )
    there = indices >= 0
    texts = [without_surrogates(text).encode() for text in codes]
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    dictionary = pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))], 0
    )
    valid = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    numbers = pa.py_buffer(np.where(there, indices, 0).astype(np.int32))
    coded = pa.Array.from_buffers(pa.int32(), len(indices), [valid, numbers], int((~there).sum()))
    return pa.DictionaryArray.from_arrays(coded, dictionary)


def _array(column: Any) -> Array:
    """Convert an Arrow column to NumPy; binary columns are task names of 16 bytes."""
    pa = _pyarrow()
    if pa.types.is_dictionary(column.type):
        names = column.dictionary.to_pylist()
        require(all(type(name) is bytes and len(name) <= _COMM for name in names), "comm")
        values = np.array(names or [b""], f"S{_COMM}")
        result: Array = values[column.indices.to_numpy(zero_copy_only=False)]
        return result
    require(not pa.types.is_binary(column.type), "a column is not a number")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _level(size: int) -> int:
    """Return zstd's level for data of *size* bytes."""
    return _LEVEL if size <= _LARGE else _LEVEL_OF_LARGE


def _compressed(data: bytes) -> bytes:
    pa = _pyarrow()
    packed: bytes = pa.Codec("zstd", _level(len(data))).compress(data, asbytes=True)
    return len(data).to_bytes(8, "little") + packed


def fast_packing() -> Packing:
    """Return a fast way to compress columns in memory."""
    pa = _pyarrow()
    codec = pa.Codec("lz4" if pa.Codec.is_available("lz4") else "zstd")

    def pack(values: Array) -> bytes:
        packed: bytes = codec.compress(values, asbytes=True)
        return packed

    def unpack(data: bytes, size: int) -> bytes:
        plain: bytes = codec.decompress(data, size, asbytes=True)
        return plain

    return Packing(pack, unpack)


def _stream(columns: Mapping[str, Any]) -> bytes:
    pa = _pyarrow()
    rows = max(map(len, columns.values()), default=0)
    # All rows of a column of strings have the same dictionary.
    whole = rows <= _BATCH or any(isinstance(values, list) for values in columns.values())
    pieces = [slice(None)] if whole else slices(rows, _BATCH)
    tables = (_table({name: values[piece] for name, values in columns.items()}) for piece in pieces)
    table, sink = next(tables), pa.BufferOutputStream()
    size = table.nbytes if whole else table.nbytes // _BATCH * rows
    codec = pa.Codec("zstd", _level(size))
    # Each thread compresses a column.
    threads = _threads() if rows > _BATCH else 1
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=threads > 1)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
        del table
        for later in tables:
            writer.write_table(later)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def packed_tables(tables: Mapping[str, Columns]) -> dict[str, bytes]:
    """Compress tables for :meth:`ContainerWriter.write_pieces`."""
    return {name: _stream(columns) for name, columns in tables.items()}


@dataclass(frozen=True)
class RecordRows:
    """The records to write, which are converted some at a time."""

    empty: Columns
    """All columns, without rows."""
    number: int | None
    """Number of records of allocated pages; ``None`` if it is not known, but large."""
    parts: Sequence[Iterable[Columns]]
    """Records of allocated pages, and records of freed pages: in parts of any size."""

    def level(self) -> int:
        """Return zstd's level for these records."""
        if self.number is None:
            return _LEVEL_OF_LARGE
        return _level(self.number * sum(column.itemsize for column in self.empty.values()))


class ContainerWriter:
    """
    Writer of a file, that :func:`new_container` makes.

    The records and everything else are written in any order; :meth:`finish` comes last.
    """

    def __init__(self, path: str, sink: Any, writer: Any) -> None:
        """
        :param sink: The ``pyarrow.PythonFile`` to which *writer* writes.
        :param writer: The ``pyarrow.parquet.ParquetWriter``.
        """
        self._path = path
        self._sink = sink
        self._writer = writer
        self._allocated = 0
        self._index: dict[str, dict[str, int]] = {}

    def write_records(self, records: RecordRows) -> None:
        """
        Write the records.

        :raises PageOwnerError: if the file cannot be written
        """

        def write(group: Columns) -> None:
            with _written(self._path):
                self._writer.write_table(_table(group), row_group_size=_ROWS)
            self._allocated += int(np.count_nonzero(group["allocated"]))

        for parts in records.parts:
            while_next(write, _row_groups(parts))
        # Arrow keeps what it has freed, for a while.
        _pyarrow().default_memory_pool().release_unused()

    def write_pieces(self, tables: Mapping[str, bytes], documents: Mapping[str, Any]) -> None:
        """
        Write everything but the records.

        :param tables: Tables by name: the result of :func:`packed_tables`.
        :param documents: Values to store as JSON, by name.
        :raises PageOwnerError: if the file cannot be written
        """
        pieces = dict(tables)
        pieces |= {
            name: _compressed(json.dumps(value).encode("ascii"))
            for name, value in documents.items()
        }
        for name, piece in pieces.items():
            with _written(self._path):
                # Arrow tracks the position in the file, so pieces must be written through it, too.
                offset = self._sink.tell()
                self._sink.write(piece)
            self._index[name] = {
                "offset": offset,
                "length": len(piece),
                "crc32": zlib.crc32(piece),
            }

    def finish(self, head: Mapping[str, Any]) -> int:
        """
        Write what is read first, at the end of the file.

        :param head: Members of the JSON document that is read first.
        :return: Size of the file in bytes.
        :raises PageOwnerError: if the file cannot be written
        """
        head = {
            **head,
            "columns": self._writer.schema.names,
            "allocated": self._allocated,
            "parts": self._index,
        }
        text = json.dumps(head)
        metadata = {
            f"{_KEY}.version": str(VERSION),
            f"{_KEY}.head": text,
            f"{_KEY}.crc32": str(zlib.crc32(text.encode("ascii"))),
        }
        self._writer.add_key_value_metadata(metadata)
        with _written(self._path):
            self._writer.close()
            size: int = self._sink.tell()
        return size


@contextmanager
def new_container(path: str, records: RecordRows) -> Iterator[ContainerWriter]:
    """
    Write a file atomically: if the block ends with an exception, an existing file is left
    unchanged.

    :param path: Path of the file.
    :param records: The records that will be written.
    :raises PageOwnerError: if the file cannot be written
    """
    pq = _parquet()
    schema = _table(records.empty).schema
    differences = [name for name in _DIFFERENCES if name in schema.names]
    of_block: OSError | None = None
    try:
        with replacing(path) as file:
            sink = _pyarrow().PythonFile(file, "w")
            with pq.ParquetWriter(
                sink,
                schema,
                compression="zstd",
                compression_level=records.level(),
                use_dictionary=[name for name in schema.names if name not in differences],
                column_encoding=dict.fromkeys(differences, "DELTA_BINARY_PACKED"),
                store_schema=False,
                write_page_checksum=True,
            ) as writer:
                try:
                    yield ContainerWriter(path, sink, writer)
                except OSError as error:
                    of_block = error
                    raise
    except OSError as error:
        if error is of_block:
            raise
        raise cannot_write(path, error) from error


@contextmanager
def _written(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _row_groups(parts: Iterable[Columns]) -> Iterator[Columns]:
    """Divide records into row groups, all of the same size but the last one."""
    waiting: list[Columns] = []
    number = 0
    for part in parts:
        for piece in _cut(part, number):
            waiting.append(piece)
            number += len(next(iter(piece.values())))
            if number == _ROWS:
                yield _joined(waiting)
                waiting, number = [], 0
    if number:
        yield _joined(waiting)


def _cut(part: Columns, before: int) -> Iterator[Columns]:
    """
    Cut records where a row group ends.

    :param before: Number of records that are already in the first row group.
    """
    start, rows = 0, len(next(iter(part.values())))
    while start < rows:
        end = min(start + _ROWS - before, rows)
        yield {name: column[start:end] for name, column in part.items()}
        start, before = end, 0


def _joined(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class JoinedColumns:
    """Columns of a known number of rows, which are added some at a time."""

    def __init__(self, rows: int, dtypes: Mapping[str, DTypeLike] | None = None) -> None:
        """
        :param rows: Number of all rows.
        :param dtypes: Types of columns that are to be of another type than their pieces, by name.
        """
        self.columns: Columns = {}
        self.rows = 0
        """Number of rows that were added."""
        self._all, self._dtypes = rows, dtypes or {}

    def add(self, piece: Mapping[str, Any]) -> None:
        """Add rows; each piece has the same columns: arrays, or lists of strings."""
        end = self.rows + max(map(len, piece.values()), default=0)
        for name, values in piece.items():
            if isinstance(values, list):
                self.columns.setdefault(name, []).extend(values)
                continue
            if name not in self.columns:
                dtype = self._dtypes.get(name, values.dtype)
                self.columns[name] = large_empty(self._all, dtype)
            self.columns[name][self.rows : end] = values
        self.rows = end


def _parsed(text: bytes) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise MalformedError(f"{name} is not a number")


class Container:
    """Reader of a file that :class:`ContainerWriter` wrote."""

    def __init__(self, path: str) -> None:
        """
        Open the file.

        :raises PageOwnerError: if the file is not a snapshot, is damaged, or has a later version of
            the format
        """
        self.path = path
        pa, pq = _pyarrow(), _parquet()
        try:
            self._map = pa.memory_map(path)
            about = pq.read_metadata(self._map)
            self.names: list[str] = about.schema.to_arrow_schema().names
            """Columns of the records."""
            self._file = pq.ParquetFile(
                self._map,
                metadata=about,
                page_checksum_verification=True,
                read_dictionary=[name for name in self.names if name == "comm"],
            )
            metadata = {k.decode(): v for k, v in (about.metadata or {}).items()}
        except FileNotFoundError:
            raise PageOwnerError(
                f"no such file: {path}; -S takes what `save` wrote, or a kernel's text"
            ) from None
        except PermissionError as error:
            raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:
            raise PageOwnerError(
                f"{path} is not a snapshot, or a damaged one: -S takes what `save` wrote, or the "
                "text of page_owner, page_owner_stacks, page_owner_sort or allocinfo"
            ) from error
        self._check(metadata)

    def _check(self, metadata: Mapping[str, bytes]) -> None:
        try:
            version = int(metadata[f"{_KEY}.version"])
        except (KeyError, ValueError):
            raise PageOwnerError(
                f"{self.path} is a Parquet file, but no snapshot: -S takes what `save` wrote"
            ) from None
        if version > VERSION:
            raise PageOwnerError(
                f"{self.path} was saved by a later drgn-pageowner (format {version}, this one "
                f"reads up to {VERSION}): update drgn-pageowner"
            )
        text = metadata.get(f"{_KEY}.head", b"")
        if str(zlib.crc32(text)).encode() != metadata.get(f"{_KEY}.crc32"):
            raise self.damaged()
        with self.checked():
            check_json(text)
            self.head: dict[str, Any] = _parsed(text)
            # The Parquet schema has no checksum, so compare its column names with those in the
            # head. Files of earlier versions have the names only in the schema.
            require(self.head.get("columns", self.names) == self.names, "columns")
            self._check_head()

    def _check_head(self) -> None:
        head = self.head
        parts = head["parts"]
        for part in parts.values():
            numbers = (part["offset"], part["length"], part["crc32"])
            require(all(type(number) is int and number >= 0 for number in numbers), "parts")
            require(part["offset"] + part["length"] <= self._map.size(), "parts")
        about = self._file.metadata
        rows, allocated = about.num_rows, head["allocated"]
        sizes = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
        require(min(sizes, default=0) >= 0 and sum(sizes) == rows, "row groups")
        require(type(allocated) is int and 0 <= allocated <= rows, "allocated")
        for name, kind in (("unavailable", str), ("facts", object)):
            require(isinstance(head[name], dict), name)
            require(all(isinstance(value, kind) for value in head[name].values()), name)
        modules = head["modules"]
        require(isinstance(modules, list) and all(type(m) is str for m in modules), "modules")
        if "records" not in head["unavailable"] and head["facts"]["page_owner"] == "on":
            # Records from a text lack the columns that the text lacks, and may lack ``pages``.
            always = _ALWAYS if "memory" not in head["unavailable"] else _LEAST
            lacking = always - set(self.names)
            require(not lacking, f"records lack {', '.join(sorted(lacking))}")
        # No page has more than one record.
        self._most_rows = head["facts"]["max_pfn"]
        require(type(self._most_rows) is int and self._most_rows >= 0, "max_pfn")
        if "memory" in head["unavailable"] and not self._most_rows:
            # A text does not contain the number of pages of the machine.
            self._most_rows = rows
        require(rows <= self._most_rows, "there are more records than pages")

    def damaged(self, reason: str = "") -> PageOwnerError:
        """Return the error for a file that is damaged."""
        return PageOwnerError(
            f"{self.path} is damaged{f' ({reason})' if reason else ''}: save it again"
        )

    @contextmanager
    def checked(self) -> Iterator[None]:
        """
        Context manager that reports exceptions in its block as damage of the file.

        The block must only depend on the contents of the file.

        :raises PageOwnerError: instead of the exceptions caused by wrong types, numbers and lengths
        """
        try:
            yield
        except PageOwnerError:
            raise
        except MalformedError as error:
            raise self.damaged(str(error)) from error
        except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise self.damaged(one_line(error)) from error
        except (_pyarrow().ArrowException, OSError, MemoryError, struct.error) as error:
            raise self.damaged(one_line(error)) from error

    def __contains__(self, part: str) -> bool:
        return part in self.head["parts"]

    def _piece(self, name: str) -> Any:
        where = self.head["parts"][name]
        data = self._map.read_at(where["length"], where["offset"])
        if len(data) != where["length"] or zlib.crc32(data) != where["crc32"]:
            raise self.damaged()
        return data

    def document(self, name: str) -> Any:
        """Read the JSON document *name*."""
        with self.checked():
            data = memoryview(self._piece(name))
            size = int.from_bytes(data[:8], "little")
            check_json(data, size)
            text: bytes = _pyarrow().Codec("zstd").decompress(data[8:], size, asbytes=True)
            check_json(text)
            return _parsed(text)

    def table(self, name: str, columns: Collection[str] | None = None) -> Columns:
        """
        Read the table *name*; arrays may be read-only, and columns of strings are lists.

        :param columns: Names of the columns to read; by default, all.
        """
        rows, pieces = self.pieces(name, columns)
        joined = JoinedColumns(rows)
        for piece in pieces:
            if max(map(len, piece.values()), default=0) == rows:
                return piece
            joined.add(piece)
        return joined.columns

    def pieces(
        self, name: str, columns: Collection[str] | None = None
    ) -> tuple[int, Iterator[Columns]]:
        """
        Read what :meth:`table` returns, some rows at a time.

        :return: Number of rows, and the pieces, of which there is at least one.
        """
        pa = _pyarrow()
        with self.checked():
            known = TABLES.get(name, {})
            wanted = known.keys() if columns is None else known.keys() & {*columns}
            piece = pa.py_buffer(self._piece(name))
            with pa.ipc.open_stream(piece) as reader:
                schema = reader.schema
            # Slab objects have at least 8 bytes, and pages at most 64 KiB.
            most_rows, rows = 64 + 8192 * self._most_rows, 0
            for message in pa.ipc.MessageReader.open_stream(piece):
                rows += rows_of_stream(message, len(schema), most_rows - rows)
        threads = _threads() if rows > _BATCH else 1
        places = [place for place, field in enumerate(schema.names) if field in wanted]
        options = pa.ipc.IpcReadOptions(included_fields=places, use_threads=threads > 1)

        def read() -> Iterator[Columns]:
            done = 0
            with self.checked(), pa.ipc.open_stream(piece, options=options) as reader:
                for batch in reader:
                    done += len(batch)
                    yield _columns(name, batch, wanted)
                if not done:
                    yield _columns(name, pa.RecordBatch.from_pylist([], schema), wanted)
                require(done == rows, "a table lacks rows")

        return rows, read()

    def number_of_records(self, *, freed: bool) -> int:
        """Return the number of records, with or without those of freed pages."""
        rows: int = self._file.metadata.num_rows if freed else self.head["allocated"]
        return rows

    def is_as_written_now(self) -> bool:
        """Return whether this version, with the same Arrow, wrote the file."""
        writer = f"parquet-cpp-arrow version {_pyarrow().__version__}"
        about = self._file.metadata
        version: bytes = about.metadata[f"{_KEY}.version".encode()]
        return about.created_by == writer and int(version) == VERSION

    def copy_to(self, path: str) -> int:
        """
        Copy the file, after all of its checksums were checked.

        :param path: Path of the copy.
        :return: Its size in bytes.
        :raises PageOwnerError: if the file is damaged, or the copy cannot be written
        """
        with self.checked():
            for number in range(self._file.metadata.num_row_groups):
                self._file.read_row_group(number)
        for part in self.head["parts"]:
            self._piece(part)
        try:
            with open(self.path, "rb") as source, replacing(path) as file:
                shutil.copyfileobj(source, file, _COPIED)
                return file.tell()
        except OSError as error:
            raise cannot_write(path, error) from error

    def record_parts(
        self, names: Iterable[str], *, freed: bool, pfns: range | None = None
    ) -> Iterator[dict[str, Array]]:
        """
        Read columns of the records, some at a time, in the order of PFNs.

        :param names: Names of the columns.
        :param freed: Whether to include the records of freed pages.
        :param pfns: Records of other PFNs may be left out.
        :return: At least one part.
        """
        wanted = [name for name in names if name in STORED]
        groups: tuple[list[int], list[int]] = ([], [])
        rows = 0
        for group in range(self._file.num_row_groups):
            groups[rows >= self.head["allocated"]].append(group)
            rows += self._file.metadata.row_group(group).num_rows
            with self.checked():
                # No row group has records of both kinds.
                require(groups[1] or rows <= self.head["allocated"], "allocated")
        parts = [self._groups(mine, wanted, pfns) for mine in groups]
        waiting: list[Columns] = []
        number = 0
        for part in _merged(*parts) if freed else parts[0]:
            if number >= _LEAST_ROWS:
                yield _joined(waiting)
                waiting, number = [], 0
            waiting.append(part)
            number += len(part["pfn"])
        none = {name: np.zeros(0, STORED[name].dtype) for name in wanted}
        yield _joined(waiting or [none])

    def _groups(
        self, groups: Iterable[int], wanted: Sequence[str], pfns: range | None
    ) -> Iterator[dict[str, Array]]:
        """Read row groups, of which each has larger PFNs than the one before."""
        threads = _threads() if self._file.metadata.num_rows > _ROWS else 1
        last = -1
        with self.checked():
            chosen = [group for group in groups if pfns is None or self._may_have(group, pfns)]
            for batch in self._file.iter_batches(
                _LEAST_ROWS, chosen, wanted, use_threads=threads > 1
            ):
                part = record_columns({name: _array(batch.column(name)) for name in wanted})
                require({"pfn", "order", "allocated"} <= part.keys(), "records lack a column")
                pfn = part["pfn"]
                if not len(pfn):
                    continue
                require(last <= int(pfn[0]) and np.all(pfn[1:] >= pfn[:-1]), "order of records")
                last = int(pfn[-1])
                yield part

    def _may_have(self, group: int, pfns: range) -> bool:
        """Return whether a row group may have records of some PFNs, by its statistics."""
        about = self._file.metadata.row_group(group).column(self.names.index("pfn"))
        known = about.statistics
        if known is None or not known.has_min_max:
            return True
        return bool(pfns and known.min <= pfns[-1] and known.max >= pfns[0])


def _threads() -> int:
    """Return the number of threads that Arrow may use, after allowing them."""
    threads = allowed_threads()
    if threads > 1:
        _pyarrow().set_cpu_count(threads)
    return threads


def _columns(name: str, rows: Any, wanted: Collection[str]) -> Columns:
    """
    Convert rows of the table *name*.

    :param rows: ``pyarrow.RecordBatch``
    """
    pa = _pyarrow()
    rows.validate(full=True)
    found: Columns = {}
    for column in rows.schema.names:
        if column in wanted:
            values = rows.column(column)
            texts = pa.types.is_dictionary(values.type)
            found[column] = values.to_pylist() if texts else values.to_numpy(zero_copy_only=False)
    return columns_of_table(name, found, wanted)


def _merged(
    allocated: Iterator[dict[str, Array]], freed: Iterator[dict[str, Array]]
) -> Iterator[dict[str, Array]]:
    """Merge records of allocated and of freed pages, each in the order of PFNs."""
    one, other = next(allocated, None), next(freed, None)
    while one is not None and other is not None:
        end = min(one["pfn"][-1], other["pfn"][-1])
        first, second = (int(places_of(part["pfn"], end, "right")) for part in (one, other))
        both = {name: np.concatenate([one[name][:first], other[name][:second]]) for name in one}
        order = np.argsort(both["pfn"], kind="stable")
        yield {name: column[order] for name, column in both.items()}
        one = _after(one, first) or next(allocated, None)
        other = _after(other, second) or next(freed, None)
    if one is not None:
        yield one
    if other is not None:
        yield other
    yield from allocated
    yield from freed


def _after(part: dict[str, Array], row: int) -> dict[str, Array] | None:
    """Return the rows from *row* on; ``None`` if there are none."""
    return {name: column[row:] for name, column in part.items()} if row < len(part["pfn"]) else None
