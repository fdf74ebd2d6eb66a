# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Provide datasets as tables of DuckDB: views of their Parquet files, from which a query
reads only the columns and row groups that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from drgn_pageowner.errors import UsageError
from drgn_pageowner.extras import extra
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.storage.dataset import Dataset

__all__ = ("add_views", "database_error", "one_query", "open_database", "stream", "tables_in")

# A query must read nothing except the tables: no other files, no network, no extensions.
_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
_TYPES = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int64": "BIGINT",
    "uint64": "UBIGINT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
    "list<string>": "VARCHAR[]",
    "list<int64>": "BIGINT[]",
}
_QUERIES = ("SELECT", "EXPLAIN")
_OF_PATHS = {"kernel": "VARCHAR", "day": "DATE"}


def open_database(datasets: Sequence[Dataset] = ()) -> Any:
    """
    Open a DuckDB connection that can read *datasets* and nothing else.

    :raises PageOwnerError: if DuckDB is not installed
    """
    duckdb = extra("duckdb", "sql", "sql")
    database = duckdb.connect(":memory:", config=_CONFIG)
    for dataset in datasets:
        if not dataset.place.is_local:
            _register(database, dataset)
    allowed = ", ".join(_text(_directory(dataset)) for dataset in datasets)
    database.execute(f"SET allowed_directories = [{allowed}]")
    database.execute("SET enable_external_access = false")
    # The progress bar would be printed on standard output.
    database.execute("SET enable_progress_bar = false")
    # Prevent queries from changing the configuration.
    database.execute("SET lock_configuration = true")
    return database


def one_query(database: Any, text: str, what: str) -> Any:
    """
    Parse *text*, which must be a single query.

    :param what: Name of what takes the query: the subject of the error message.
    :return: Statement for ``execute()``.
    :raises UsageError: if there is not exactly one statement, or it is not a query
    """
    statements = database.extract_statements(text)
    if len(statements) != 1:
        raise UsageError(f"{what} takes one statement, not {len(statements)}")
    kind = str(statements[0].type).rpartition(".")[2]
    if kind not in _QUERIES:
        raise UsageError(
            f"{what} only queries, but this is {kind}: begin with select, from or with"
        )
    return statements[0]


def tables_in(query: str, tables: Iterable[str]) -> list[str]:
    """Return those of *tables* whose names occur in *query*, so that only these are made."""
    words = set(re.findall(r"\w+", query.lower()))
    return [name for name in tables if name in words]


def database_error(error: Exception) -> str:
    """Return the first paragraph of DuckDB's message, without the excerpt of the query, in one
    line."""
    return " ".join(str(error).split("\n\n")[0].split())


def add_views(
    database: Any,
    datasets: Sequence[Dataset],
    tables: Collection[str] = tuple(DATASET),
    others: Mapping[str, Any] | None = None,
) -> None:
    """
    Create a view for each of *tables*, with the rows of all datasets and of *others*.

    :param others: Additional rows, by table: objects that DuckDB can register
        (``pyarrow.dataset.Dataset``).
    """
    for table in tables:
        parts = [_scan(dataset, files) for dataset in datasets if (files := _files(dataset, table))]
        if others is not None and table in others:
            database.register(f"_{table}", others[table])
            parts.append(f'SELECT * FROM "_{table}"')
        types = {field.name: _TYPES[field.type] for field in DATASET[table]} | _OF_PATHS
        nothing = ", ".join(f'NULL::{type_} AS "{name}"' for name, type_ in types.items())
        parts.append(f"SELECT {nothing} WHERE false")
        columns = ", ".join(f'"{name}"' for name in types)
        rows = " UNION ALL BY NAME ".join(parts)
        database.execute(f'CREATE TEMP VIEW "{table}" AS SELECT {columns} FROM ({rows})')


def _files(dataset: Dataset, table: str) -> list[str] | str | None:
    """
    Return the files of a table for DuckDB: a glob pattern, or a list of paths if DuckDB cannot
    search for them itself.
    """
    place = dataset.place
    if not place.is_local:
        return [place.url(f"{table}/{entry.path}") for entry in place.files(table)] or None
    pattern = f"{table}/*/*/*.parquet"
    return place.path(pattern) if _has_any(dataset, table) else None


def _has_any(dataset: Dataset, table: str) -> bool:
    import glob

    pattern = f"{glob.escape(dataset.place.path(table))}/*/*/*.parquet"
    return next(glob.iglob(pattern), None) is not None


def _scan(dataset: Dataset, files: list[str] | str) -> str:
    where = _text(files) if isinstance(files, str) else f"[{', '.join(map(_text, files))}]"
    types = ", ".join(f"{_text(name)}: {type_}" for name, type_ in _OF_PATHS.items())
    return (
        f"SELECT * FROM read_parquet({where}, union_by_name = true, hive_partitioning = true, "
        f"hive_types = {{{types}}})"
    )


def _directory(dataset: Dataset) -> str:
    return f"{dataset.place.url()}/"


def _text(value: str) -> str:
    """Quote *value* as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def _register(database: Any, dataset: Dataset) -> None:
    """Let DuckDB read from an object store through Arrow's file system."""
    arrow = extra("fsspec.implementations.arrow", "fleet", "sql over an object store")
    scheme = dataset.place.scheme

    class FileSystem(arrow.ArrowFSWrapper):  # type: ignore[misc, name-defined]
        protocol = scheme

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(f"{scheme}://")

    database.register_filesystem(FileSystem(dataset.place.file_system))


def stream(schema: Any, batches: Callable[[Collection[str]], Any]) -> Any:
    """
    Create a table whose rows are generated while they are read, one snapshot at a time.

    :param schema: ``pyarrow.Schema``
    :param batches: Function that takes the names of the columns that are read, and yields
        ``pyarrow.RecordBatch`` objects of *schema*, in which other columns may be null.
    :return: ``pyarrow.dataset.Dataset`` that DuckDB can register.
    """
    pa = extra("pyarrow", "sql", "sql")
    ds = extra("pyarrow.dataset", "sql", "sql")

    class Streamed(ds.InMemoryDataset):  # type: ignore[misc, name-defined]
        def scanner(self, columns: Any = None, filter: Any = None, **_: Any) -> Any:  # noqa: A002
            wanted = set(schema.names if columns is None else columns)
            if filter is not None:
                # *columns* lacks the columns that only occur in the filter.
                text = str(filter)
                wanted |= {name for name in schema.names if name in text}
            reader = pa.RecordBatchReader.from_batches(schema, batches(wanted))
            return ds.Scanner.from_batches(reader, columns=columns, filter=filter)

    return Streamed(schema.empty_table())
