# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask rules about one dump."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Timer
from typing import Any

from drgn_pageowner.analysis.report import Report
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.extras import extra
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.dataset import Origins, RecordTable, arrow_schema, dataset_tables
from drgn_pageowner.rules.rule import Rule, RuleMatch, RuleSet
from drgn_pageowner.rules.stack import holdings_of_report, sum_matches
from drgn_pageowner.storage.database import (
    database_error,
    one_query,
    open_database,
    stream,
    tables_in,
)

__all__ = ("Answers", "ask_rules", "open_for", "rows_of")

_SECONDS = 60.0
_NAME = "dump"


@dataclass
class Answers:
    """Outcome of asking rules."""

    matches: list[RuleMatch] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """One line for each rule, or kind of rules, that could not be asked."""


def ask_rules(
    rules: RuleSet,
    session: Session,
    found: Report,
    inventory: Inventory | None,
    tables: Mapping[str, Any] | None = None,
) -> Answers:
    """
    Ask all rules whose range of kernels includes the kernel of a dump.

    :param found: Report on the same dump.
    :param inventory: The use of every page; ``None`` if it could not be read.
    :param tables: The dump's tables, by name, as :func:`dataset_tables` makes them; ``None`` to
        make those that the rules name.
    """
    answers = Answers(errors=list(rules.errors))
    asked = [rule for rule in rules.rules if rule.kernels.includes(found.facts.release)]
    held = None
    present = sum(zone.present for zone in found.facts.zones)
    for rule in asked:
        if rule.stack is not None:
            if held is None:
                held = holdings_of_report(found, _records(session, asked))
            values = sum_matches(rule.stack, held[rule.stack.of], present)
            if values is not None:
                answers.matches.append(RuleMatch(rule, values))
    queries = [rule for rule in asked if rule.sql is not None]
    database = open_for(queries, answers)
    if database is None:
        return answers
    named = tables_in(" ".join(rule.sql or "" for rule in queries), DATASET)
    if tables is None:
        origins = Origins(_NAME, "", next(iter(session.members()), None))
        tables, _ = dataset_tables(session, found, inventory, origins, named)
    for name in named:
        database.register(name, _registered(tables.get(name, arrow_schema(name).empty_table())))
    for rule in queries:
        answers.matches += [RuleMatch(rule, values) for values in rows_of(database, rule, answers)]
    return answers


def _registered(table: Any) -> Any:
    """Return what DuckDB can register of a table of :func:`dataset_tables`."""
    if not isinstance(table, RecordTable):
        return table

    def batches(wanted: Collection[str]) -> Iterator[Any]:
        for part in table.parts(wanted):
            yield from part.to_batches()

    return stream(table.schema, batches)


def _records(session: Session, rules: Iterable[Rule]) -> Snapshot | None:
    if not any(rule.stack is not None and rule.stack.of == "records" for rule in rules):
        return None
    try:
        return session.snapshot(("handle",))
    except PageOwnerError:
        # The report says why there are no records.
        return None


def open_for(queries: Sequence[Rule], answers: Answers) -> Any:
    """Open a database; if there is no DuckDB, say in *answers* how many rules need it."""
    if not queries:
        return None
    try:
        return open_database()
    except PageOwnerError as error:
        if not isinstance(error.__context__, ImportError):
            raise
        number = len(queries)
        rules = "1 rule is" if number == 1 else f"{number} rules are"
        answers.errors.append(f"{rules} left out: {error}")
        return None


def rows_of(
    database: Any, rule: Rule, answers: Answers, *, seconds: float | None = None
) -> list[dict[str, Any]]:
    """
    Return the rows of a rule's query; if it fails, say in *answers* why.

    :param seconds: Maximum duration of the query; ``None`` for a minute.
    """
    seconds = _SECONDS if seconds is None else seconds
    duckdb = extra("duckdb", "sql", "rules")
    try:
        statement = one_query(database, rule.sql or "", "a rule")
        with _limited(database, seconds):
            cursor = database.execute(statement)
            names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    except UsageError as error:
        answers.errors.append(f"{rule.path}: {error}")
        return []
    except duckdb.InterruptException:
        answers.errors.append(f"{rule.path}: its query took more than {seconds:g} s")
        return []
    except duckdb.Error as error:
        answers.errors.append(f"{rule.path}: {database_error(error)}")
        return []
    known = {*names, *(("size",) if "pages" in names else ())}
    if unknown := rule.fields() - known:
        answers.errors.append(
            f"{rule.path}: its text has {{{min(unknown)}}}, and its query has the columns "
            f"{', '.join(names)}"
        )
        return []
    return [dict(zip(names, row, strict=True)) for row in rows]


@contextmanager
def _limited(database: Any, seconds: float) -> Iterator[None]:
    timer = Timer(seconds, database.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        # Wait for the thread: if it were still ending when the interpreter exits, the process could
        # abort.
        timer.cancel()
        timer.join()
