# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask rules about all dumps of a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.verdicts import KnownCause
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.render.dataset import arrow_schema
from drgn_pageowner.rules.query import Answers, open_for, rows_of
from drgn_pageowner.rules.rule import LEVELS, Rule, RuleMatch, RuleSet, verdicts_of
from drgn_pageowner.rules.stack import OF, Holding, sum_matches
from drgn_pageowner.storage.database import add_views, database_error, open_database
from drgn_pageowner.storage.dataset import Dataset

__all__ = ("CAUSES", "check_rules", "known_causes")

CAUSES = ("rule", "level", "dumps", "hosts", "pages", "for_example", "link", "worst_dump")
"""Columns of :func:`known_causes`."""

_SECONDS = 3600.0
_MODULE = re.compile(r"\[(\S+)\](?: \(.*\))?$")


@dataclass
class _Dump:
    """A snapshot of the dataset, and what matched in it."""

    release: str | None
    hostname: str | None
    source: str | None
    present: int
    page_size: int
    matches: list[RuleMatch] = field(default_factory=list)


def check_rules(rules: RuleSet) -> list[str]:
    """
    Return what is wrong with *rules*, one line for each bad file: queries run on empty tables.

    If DuckDB is not installed, one line says so, and queries are not checked.
    """
    answers = Answers(errors=list(rules.errors))
    queries = [rule for rule in rules.rules if rule.sql is not None]
    database = open_for(queries, answers)
    if database is not None:
        for name in DATASET:
            database.register(name, arrow_schema(name).empty_table())
        for rule in queries:
            rows_of(database, rule, answers)
    return answers.errors


def known_causes(rules: RuleSet, dataset: Dataset) -> tuple[list[tuple[Any, ...]], list[str]]:
    """
    Ask all rules about every dump of a dataset.

    Each query runs once over all dumps, so its result needs a column ``snapshot``.

    :return: A row (:data:`CAUSES`) for each rule that matched, those of most dumps first; and a
        line for each rule that could not be asked.
    :raises PageOwnerError: if DuckDB is not installed, or the dataset cannot be read
    """
    answers = Answers(errors=list(rules.errors))
    database = open_database([dataset])
    add_views(database, [dataset])
    columns = "snapshot, release, hostname, source, present, page_size"
    dumps = {
        row[0]: _Dump(row[1], row[2], row[3], row[4] or 0, row[5] or 0)
        for row in _fetch(database, dataset, f"select {columns} from meta")
    }
    for rule in rules.rules:
        if rule.sql is not None:
            _ask(database, rule, dumps, answers)
    for of in OF:
        patterns = [rule for rule in rules.rules if rule.stack is not None and rule.stack.of == of]
        if patterns:
            _compare(_stacks(database, dataset, of), patterns, dumps)
    return _summed(dumps), answers.errors


def _ask(database: Any, rule: Rule, dumps: dict[str, _Dump], answers: Answers) -> None:
    for values in rows_of(database, rule, answers, seconds=_SECONDS):
        if "snapshot" not in values:
            answers.errors.append(
                f"{rule.path}: its query has no column snapshot, so it cannot be asked about "
                "many dumps"
            )
            return
        _add(dumps, str(values["snapshot"]), RuleMatch(rule, values))


def _compare(
    stacks: dict[str, list[Holding]], patterns: Sequence[Rule], dumps: dict[str, _Dump]
) -> None:
    for snapshot, held in stacks.items():
        for rule in patterns:
            assert rule.stack is not None
            present = dumps[snapshot].present if snapshot in dumps else 0
            values = sum_matches(rule.stack, held, present)
            if values is not None:
                _add(dumps, snapshot, RuleMatch(rule, values))


def _add(dumps: dict[str, _Dump], snapshot: str, match: RuleMatch) -> None:
    # A snapshot without a row in "meta" is being written.
    dump = dumps.get(snapshot)
    if dump is not None and match.rule.kernels.includes(dump.release):
        dump.matches.append(match)


def _summed(dumps: dict[str, _Dump]) -> list[tuple[Any, ...]]:
    by_rule: dict[str, list[tuple[KnownCause, _Dump]]] = {}
    for dump in dumps.values():
        for verdict in verdicts_of(dump.matches, dump.page_size):
            by_rule.setdefault(str(verdict.rule), []).append((verdict, dump))
    rows = []
    for name, found in by_rule.items():
        worst, where = max(found, key=lambda pair: pair[0].pages or 0)
        known = [verdict.pages for verdict, _ in found if verdict.pages is not None]
        hosts = {dump.hostname for _, dump in found if dump.hostname is not None}
        rows.append(
            (
                name, worst.level, len(found), len(hosts), sum(known) if known else None,
                worst.text, worst.link, where.source,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: (LEVELS.index(row[1]), -row[2], row[0]))


def _stacks(database: Any, dataset: Dataset, of: str) -> dict[str, list[Holding]]:
    """Return the stacks of every snapshot and what they hold."""
    table = "stacks" if of == "records" else of
    where = " and kind = 'pages'" if of == "leaks" else ""
    confidence = "confidence" if of == "leaks" else "null"
    frames = {
        stack_id: ([_frame(f, text) for f, text in zip(functions, texts, strict=True)], module)
        for stack_id, functions, texts, module in _fetch(
            database, dataset,
            "select stack_id, any_value(functions), any_value(frames), any_value(module) "
            f"from stacks where stack_id in (select stack_id from {table}) group by stack_id",
        )
    }  # fmt: skip
    result: dict[str, list[Holding]] = {}
    for snapshot, stack_id, allocator, pages, allocations, sure in _fetch(
        database, dataset,
        f"select snapshot, stack_id, any_value(allocator), sum(pages), sum(allocations), "
        f"{confidence} as sure from {table} where stack_id is not null and pages > 0{where} "
        "group by snapshot, stack_id, sure",
    ):  # fmt: skip
        if stack_id in frames:
            of_stack, module = frames[stack_id]
            result.setdefault(snapshot, []).append(
                Holding(
                    of_stack, allocator or "", module or "", int(pages),
                    None if allocations is None else int(allocations), sure,
                )
            )  # fmt: skip
    return result


def _frame(function: str, text: str) -> tuple[str, str]:
    found = _MODULE.search(text)
    return plain_name(function), found.group(1) if found is not None else ""


def _fetch(database: Any, dataset: Dataset, query: str) -> list[tuple[Any, ...]]:
    try:
        rows: list[tuple[Any, ...]] = database.execute(query).fetchall()
    except Exception as error:
        raise PageOwnerError(
            f"{dataset.place.name} cannot be asked: {database_error(error)}"
        ) from error
    return rows
