# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Query a dump, any number of snapshots, or datasets, with SQL (DuckDB).

  sql "select allocator, sum(pages) from records where allocated group by all order by 2 desc"
  -S 'fleet/*.parquet' sql "select snapshot, release from meta"
  -S DATASET sql "select hostname, sum(pages) from leaks join meta using (snapshot) group by all"

Tables: records, stacks, pages, zones, tags, meta; each has a column snapshot that names the file.
A dataset (save --dataset, fleet ingest) has more: leaks, suspects, frag, verdicts, runs.
sql "describe records" shows the columns of a table; docs/formats.md and docs/dataset.md explain
them. Rows are read while the query runs, and only the columns that it needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO

from drgn_pageowner.commands.arguments import add_output
from drgn_pageowner.commands.drgn_lines import refuse_drgn
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.extras import extra
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import progress, warn
from drgn_pageowner.render.dataset import (
    arrow_schema,
    conform,
    pages_by_class,
    rows_table,
    schema_of,
)
from drgn_pageowner.render.query import query_csv, query_json, query_table
from drgn_pageowner.render.relations import PAGES, RELATIONS, relation_parts
from drgn_pageowner.storage.database import (
    add_views,
    database_error,
    one_query,
    open_database,
    stream,
    tables_in,
)
from drgn_pageowner.storage.session import DatasetSession


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", help="one statement of SQL")
    add_output(parser, "table", "json", "csv")
    refuse_drgn(parser, "DuckDB runs the statement, not drgn")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    duckdb = extra("duckdb", "sql", "sql")
    members = session.members()
    datasets = [m.dataset for m in members.values() if isinstance(m, DatasetSession)]
    others = {k: m for k, m in members.items() if not isinstance(m, DatasetSession)}
    database = open_database(datasets)
    streams: list[_Stream] = []
    try:
        statement = one_query(database, args.query, "sql")
        tables = {**RELATIONS, **DATASET} if datasets else RELATIONS
        for name in tables_in(args.query, tables) or tables:
            made = {}
            if others and name in RELATIONS:
                streams.append(_Stream(name, others, by_class=bool(datasets)))
                made[name] = streams[-1].table()
            if datasets:
                add_views(database, datasets, [name], made)
            else:
                database.register(name, made[name])
        cursor = database.execute(statement)
        names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    except duckdb.Error as error:
        # The query may have failed because the rows of a table cannot be read; report that error
        # instead.
        for one in streams:
            one.check()
        raise UsageError(database_error(error)) from error
    for one in streams:
        one.check()
    renderers = {"table": query_table, "json": query_json, "csv": query_csv}
    out.writelines(renderers[args.format](names, rows))
    return 0


class _Stream:
    """A table with the rows of all snapshots and dumps, which are generated while the query reads
    them."""

    def __init__(self, table: str, members: Mapping[str, Session], *, by_class: bool) -> None:
        """
        :param by_class: Whether ``pages`` has a row per class and zone, as in a dataset.
        """
        self._table = table
        self._members = members
        self._by_class = by_class and table == "pages"
        self._found = False
        self._why: PageOwnerError | None = None
        self._mistake: Exception | None = None
        self._said: set[str] = set()

    def table(self) -> Any:
        """Return the ``pyarrow.dataset.Dataset`` to register in DuckDB."""
        if self._table == "pages" and not self._by_class:
            self._schema = schema_of({"snapshot": "string", **PAGES})
        else:
            self._schema = arrow_schema(self._table)
        return stream(self._schema, self._batches)

    def _batches(self, wanted: Collection[str]) -> Iterator[Any]:
        for name, member in progress(
            self._members.items(), description=self._table, total=len(self._members),
            unit=" snapshot",
        ):  # fmt: skip
            try:
                for rows in self._rows(name, member, wanted):
                    self._found = True
                    yield from conform(rows, self._schema).to_batches()
            except PageOwnerError as error:
                self._why = error
                if len(self._members) > 1 and name not in self._said:
                    self._said.add(name)
                    warn(f"{name} has no {self._table}: {error}")
                continue
            except Exception as error:
                # Keep the exception, because DuckDB would report it as an error in the query.
                self._mistake = error
                raise

    def _rows(self, name: str, member: Session, wanted: Collection[str]) -> Iterator[Any]:
        if self._by_class:
            inventory = member.inventory(owners=False)
            yield rows_table("pages", pages_by_class(inventory, name))
        else:
            yield from relation_parts(self._table, member, name, wanted)

    def check(self) -> None:
        """
        Raise the exception that ended the stream.

        :raises PageOwnerError: if rows were wanted, and no snapshot has any
        """
        if self._mistake is not None:
            raise self._mistake
        if self._why is not None and not self._found:
            raise self._why
