# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Query a dump, or any number of snapshots, with SQL (DuckDB).

  sql "select allocator, sum(pages) from records where allocated group by all order by 2 desc"
  -S 'fleet/*.parquet' sql "select snapshot, release from meta"

Tables: records, stacks, pages, zones, meta; each has a column snapshot that names the file.
sql "describe records" shows the columns of one; docs/formats.md says what they are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, TextIO

from drgn_pageowner.commands.arguments import add_output
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.extras import extra
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import progress, warn
from drgn_pageowner.render.query import query_csv, query_json, query_table
from drgn_pageowner.render.relations import RELATIONS, relation

# A query must read only the tables: no files, no network, no extensions.
_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}
_QUERIES = ("SELECT", "EXPLAIN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", help="one statement of SQL")
    add_output(parser, "table", "json", "csv")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    duckdb = extra("duckdb", "sql", "sql")
    database = duckdb.connect(":memory:", config=_CONFIG)
    try:
        statement = _statement(database, args.query)
        named = _named(args.query)
        for name in named or RELATIONS:
            try:
                database.register(name, _table(name, session))
            except PageOwnerError:
                # Tables that the query does not name may be missing.
                if named:
                    raise
        cursor = database.execute(statement)
        names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    except duckdb.Error as error:
        raise UsageError(_one_line(str(error))) from error
    renderers = {"table": query_table, "json": query_json, "csv": query_csv}
    out.writelines(renderers[args.format](names, rows))
    return 0


def _statement(database: Any, query: str) -> Any:
    statements = database.extract_statements(query)
    if len(statements) != 1:
        raise UsageError(f"sql takes one statement, and these are {len(statements)}")
    kind = str(statements[0].type).rpartition(".")[2]
    if kind not in _QUERIES:
        raise UsageError(f"sql only queries, and this is {kind}: begin with select, from or with")
    return statements[0]


def _named(query: str) -> Sequence[str]:
    """Return the tables that *query* names, so that only those are made."""
    words = set(re.findall(r"\w+", query.lower()))
    return [name for name in RELATIONS if name in words]


def _table(table: str, session: Session) -> Any:
    """
    Return the rows of all snapshots, one after another; one that has none is reported.

    :raises PageOwnerError: if none has any
    """
    pa = extra("pyarrow", "sql", "sql")
    members = session.members()
    found, why = [], ""
    for name, member in progress(
        members.items(), description=table, total=len(members), unit=" snapshot"
    ):
        try:
            found.append(relation(table, member, name))
        except PageOwnerError as error:
            why = str(error)
            if len(members) > 1:
                warn(f"{name} has no {table}: {why}")
    if not found:
        raise PageOwnerError(why)
    return pa.concat_tables(found)


def _one_line(message: str) -> str:
    """Return DuckDB's message without the drawing and the advice after its first empty line."""
    return " ".join(message.split("\n\n")[0].split())
