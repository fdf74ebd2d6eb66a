# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A dataset: a directory of plain Parquet files, one for each table of each snapshot.

Files are named ``TABLE/kernel=RELEASE/day=YYYY-MM-DD/SNAPSHOT.parquet``. SNAPSHOT is derived from
the contents of the dump, so writing a snapshot again replaces its files. The table ``meta`` is
written last, so a snapshot that has this table is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.extras import extra
from drgn_pageowner.model.dataset import DATASET, DATASET_SCHEMA
from drgn_pageowner.model.threads import while_next
from drgn_pageowner.storage.places import Place

__all__ = ("MARKER", "Dataset", "Partition", "dataset_file")

MARKER = "dataset.json"
_KEY = "drgn_pageowner_dataset"
_NEEDS = "a dataset"
# Value of a partition that Hive, Spark, DuckDB and Arrow read as null.
_NULL = "__HIVE_DEFAULT_PARTITION__"
_LEVEL = 6
_ROWS = 1 << 20
# Columns to delta-encode, because values in adjacent rows are close together.
_DIFFERENCES = frozenset(("pfn", "pageblock", "ts_nsec", "free_ts_nsec", "age_ns"))


@dataclass(frozen=True)
class Partition:
    """The hive partition of a snapshot, which determines the directories of its files."""

    kernel: str | None
    """Release of the kernel."""
    day: str | None
    """Day of the crash."""

    @property
    def path(self) -> str:
        """The directories, ``kernel=.../day=...``; special characters are written as ``%XX``."""
        return "/".join(
            f"{name}={_NULL if value is None else quote(value, safe='')}"
            for name, value in (("kernel", self.kernel), ("day", self.day))
        )


class Dataset:
    """Reads and writes a dataset, which may not exist yet."""

    def __init__(self, where: str | Place) -> None:
        """
        :param where: A directory or a URL.
        :raises PageOwnerError: if the dataset has a later version, or cannot be read
        """
        self.place = Place(where) if isinstance(where, str) else where
        self.exists = self._check()
        """Whether the dataset exists."""

    def _check(self) -> bool:
        text = self.place.read(MARKER)
        if text is None:
            return False
        try:
            schema = json.loads(text)[_KEY]
            known = type(schema) is int and schema >= 1
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise PageOwnerError(f"{self.place.url(MARKER)} is damaged: it has no {_KEY}")
        if schema > DATASET_SCHEMA:
            raise PageOwnerError(
                f"{self.place.name} was written by a later drgn-pageowner (tables of version "
                f"{schema}, this one reads up to {DATASET_SCHEMA}): update drgn-pageowner"
            )
        return True

    @staticmethod
    def is_one(where: str) -> bool:
        """Return whether there is a dataset at *where*, a path or a URL."""
        place = Place(where)
        return place.exists(MARKER)

    def create(self) -> None:
        """
        Create the marker file that makes the directory a dataset.

        :raises PageOwnerError: if it cannot be written, or the directory contains other files
        """
        if self.exists:
            return
        if self.place.is_directory() and (files := self.place.files()):
            strange = [entry.path for entry in files if entry.path.split("/")[0] not in DATASET]
            # Another process may have created the marker in the meantime.
            if strange and strange != [MARKER]:
                raise PageOwnerError(
                    f"{self.place.name} is not empty and no dataset (it has {strange[0]}): "
                    "name another directory"
                )
        self.place.write(MARKER, json.dumps({_KEY: DATASET_SCHEMA}).encode() + b"\n")
        self.exists = True

    def write(
        self,
        tables: Mapping[str, tuple[Any, Iterable[Any]]],
        partition: Partition,
        id_: str,
    ) -> int:
        """
        Write the tables of a snapshot, ``meta`` last.

        :param tables: For each name the ``pyarrow.Schema``, and the rows: ``pyarrow.Table``, one or
            more.
        :return: Number of bytes written.
        :raises PageOwnerError: if a file cannot be written
        """
        self.create()
        total = 0
        for name in sorted(tables, key=lambda name: name == "meta"):
            data = _parquet_bytes(*tables[name])
            self.place.write(dataset_file(name, partition, id_), data)
            total += len(data)
        return total

    def has(self, partition: Partition, id_: str) -> bool:
        """Return whether the dataset contains the whole snapshot with ID *id_*."""
        return self.place.exists(dataset_file("meta", partition, id_))

    def rows(self, table: str, partition: Partition, id_: str) -> list[dict[str, Any]]:
        """
        Read the rows of *table* of one snapshot; none if it has no such file.

        :raises PageOwnerError: if it is damaged
        """
        path = dataset_file(table, partition, id_)
        data = self.place.read(path)
        if data is None:
            return []
        pa = extra("pyarrow", "parquet", _NEEDS)
        pq = extra("pyarrow.parquet", "parquet", _NEEDS)
        try:
            rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise PageOwnerError(f"{self.place.url(path)} is damaged: remove it") from error
        return rows

    def ids(self, table: str = "meta") -> set[str]:
        """Return the IDs of the snapshots that have a file of *table*."""
        return {
            entry.path.rpartition("/")[2].removesuffix(".parquet")
            for entry in self.place.files(table)
            if entry.path.endswith(".parquet")
        }

    def tables(self) -> dict[str, list[str]]:
        """List the files of every table, relative to the dataset."""
        return {
            name: [
                f"{name}/{entry.path}"
                for entry in self.place.files(name)
                if entry.path.endswith(".parquet")
            ]
            for name in DATASET
        }


def dataset_file(table: str, partition: Partition, id_: str) -> str:
    """Return the path of a table's file for one snapshot, relative to the dataset."""
    return f"{table}/{partition.path}/{id_}.parquet"


def _parquet_bytes(schema: Any, parts: Iterable[Any]) -> memoryview:
    pa = extra("pyarrow", "parquet", _NEEDS)
    pq = extra("pyarrow.parquet", "parquet", _NEEDS)
    sink = pa.BufferOutputStream()
    names = [name for name in schema.names if name in _DIFFERENCES]
    metadata = {**(schema.metadata or {}), _KEY.encode(): str(DATASET_SCHEMA).encode()}
    schema = schema.with_metadata(metadata)
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=[name for name in schema.names if name not in names],
        column_encoding=dict.fromkeys(names, "DELTA_BINARY_PACKED"),
    ) as writer:

        def write(group: Any) -> None:
            writer.write_table(group.replace_schema_metadata(metadata), row_group_size=_ROWS)

        while_next(write, _row_groups(pa, parts))
    return memoryview(sink.getvalue())


def _row_groups(pa: Any, parts: Iterable[Any]) -> Iterator[Any]:
    """Divide tables into row groups, all of the same size but the last one."""
    waiting: list[Any] = []
    number = 0
    for part in parts:
        waiting.append(part)
        number += len(part)
        while number > _ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, _ROWS)
            waiting, number = [whole.slice(_ROWS)], number - _ROWS
    yield pa.concat_tables(waiting)
