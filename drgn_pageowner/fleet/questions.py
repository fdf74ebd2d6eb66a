# SPDX-License-Identifier: LGPL-2.1-or-later
"""Named SQL queries on a dataset, for ``fleet top``, ``fleet diff`` and ``fleet report``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.storage.database import add_views, open_database
from drgn_pageowner.storage.dataset import Dataset

__all__ = ("DIFFS", "QUESTIONS", "TOTALS", "Answer", "Question", "ask_dataset", "kernels_of")


@dataclass(frozen=True)
class Question:
    """An SQL query with a heading."""

    title: str
    """Heading of the result."""
    tables: Sequence[str]
    """Names of the tables that it reads."""
    sql: str
    values: Mapping[str, str] | None = None
    """Values of the query's parameters, by name."""


@dataclass(frozen=True)
class Answer:
    """Result of a query."""

    names: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[Any]]


# Columns named worst_dump and example_dump have the path of one dump for each row, so that the user
# can open that dump for details.
QUESTIONS: Mapping[str, Question] = {
    "kernels": Question(
        "Kernels", ("meta", "leaks", "verdicts"), """
        with lost as (select snapshot, sum(pages) as pages from leaks where kind = 'pages'
                      and confidence = 'high' group by snapshot),
        bad as (select distinct snapshot from verdicts where finding is not null)
        select release, count(*) as dumps, count(distinct hostname) as hosts,
            count(bad.snapshot) as with_findings,
            round(100.0 * count(bad.snapshot) / count(*), 1) as percent,
            coalesce(sum(pages), 0)::bigint as leaked_pages,
            round(coalesce(sum(pages), 0) / count(*), 1) as leaked_per_dump,
            arg_max(source, pages) as worst_dump
        from meta left join lost using (snapshot) left join bad using (snapshot)
        group by release order by dumps desc, release""",
    ),
    "findings": Question(
        "Findings", ("meta", "verdicts"), """
        select finding, level, count(distinct snapshot) as dumps,
            count(distinct hostname) as hosts, any_value(text) as for_example,
            any_value(source) as example_dump
        from verdicts join meta using (snapshot) where finding is not null
        group by finding, level order by dumps desc, finding""",
    ),
    "causes": Question(
        "Known causes", ("meta", "verdicts"), """
        select rule, any_value(level) as level, count(distinct snapshot) as dumps,
            count(distinct hostname) as hosts, sum(pages)::bigint as pages,
            list_sort(list_distinct(list(release))) as kernels,
            arg_max(text, coalesce(pages, 0)) as for_example, any_value(link) as link,
            arg_max(source, coalesce(pages, 0)) as worst_dump
        from verdicts join meta using (snapshot) where rule is not null
        group by rule order by dumps desc, rule""",
    ),
    "leaks": Question(
        "Stacks with most leaked pages", ("meta", "leaks"), """
        select stack_id, any_value(allocator) as allocator, sum(pages)::bigint as pages,
            sum(allocations)::bigint as allocations, count(distinct snapshot) as dumps,
            count(distinct hostname) as hosts,
            list_sort(list_distinct(list(release))) as kernels,
            arg_max(source, pages) as worst_dump
        from leaks join meta using (snapshot) where kind = 'pages'
        group by stack_id order by pages desc, stack_id""",
    ),
    "growth": Question(
        "Stacks of drivers and other kernel code that grow", ("meta", "suspects"), """
        select stack_id, any_value(allocator) as allocator, sum(pages)::bigint as pages,
            round(median(pages_per_hour), 1) as pages_per_hour,
            count(distinct snapshot) as dumps, count(distinct hostname) as hosts,
            max(score) as score, arg_max(source, pages) as worst_dump
        from suspects join meta using (snapshot)
        group by stack_id order by pages desc, stack_id""",
    ),
    "hosts": Question(
        "Hosts by leaked pages", ("meta", "leaks", "verdicts"), """
        with lost as (select snapshot, sum(pages) as pages from leaks where kind = 'pages'
                      group by snapshot),
        bad as (select snapshot, count(*) as findings from verdicts where finding is not null
                group by snapshot)
        select hostname, count(*) as dumps, coalesce(sum(findings), 0)::bigint as findings,
            coalesce(sum(pages), 0)::bigint as leaked_pages,
            list_sort(list_distinct(list(release))) as kernels,
            arg_max(source, coalesce(pages, 0)) as worst_dump
        from meta left join lost using (snapshot) left join bad using (snapshot)
        group by hostname order by leaked_pages desc, findings desc, hostname""",
    ),
    "owners": Question(
        "Largest owners by their records", ("meta", "stacks"), """
        select allocator, sum(pages)::bigint as pages, count(distinct snapshot) as dumps,
            count(distinct hostname) as hosts, round(sum(pages) / count(distinct snapshot), 1)
            as pages_per_dump
        from stacks join meta using (snapshot) group by allocator order by pages desc, allocator""",
    ),
    "grown": Question(
        "Growth from the first to the last dump of every host", ("meta", "stacks"), """
        select allocator, sum(if(crash_time = last, pages, -pages))::bigint as grown_pages,
            count(distinct hostname) as hosts
        from stacks join (select snapshot, hostname, crash_time, min(crash_time) over host as first,
                max(crash_time) over host as last from meta where crash_time is not null
                window host as (partition by hostname)) using (snapshot)
        where first < last and crash_time in (first, last)
        group by allocator order by grown_pages desc, allocator""",
    ),
    "largest": Question(
        "Largest stack of every kernel", ("meta", "stacks"), """
        select release, arg_max(allocator, pages) as allocator, max(pages) as pages,
            arg_max(source, pages) as dump
        from stacks join meta using (snapshot) group by release order by release""",
    ),
    "fragmentation": Question(
        "Zones whose free memory is in pieces", ("meta", "frag"), """
        select verdict, count(*) as zones, count(distinct snapshot) as dumps,
            count(distinct hostname) as hosts, any_value(source) as example_dump
        from frag join meta using (snapshot) where not healthy
        group by verdict order by dumps desc, verdict""",
    ),
    "failed": Question(
        "Dumps that could not be ingested", ("runs",), """
        select status, reason, count(*) as dumps, any_value(release) as release,
            any_value(build_id) as build_id, any_value(dump) as example_dump
        from runs where status <> 'ok' group by status, reason order by dumps desc, reason""",
    ),
}  # fmt: skip
"""Every query of ``fleet top`` and ``fleet report``, by name."""

TOTALS = Question(
    "In all", ("meta", "leaks", "verdicts"), """
    select (select count(*) from meta) as dumps,
        (select count(distinct hostname) from meta) as hosts,
        (select count(distinct release) from meta) as kernels,
        (select count(distinct snapshot) from verdicts where finding is not null)
            as "dumps with findings",
        (select coalesce(sum(pages), 0)::bigint from leaks where kind = 'pages')
            as "leaked pages\"""",
)  # fmt: skip
"""Query for the totals of the whole dataset."""

# Columns that the queries read, by table.
_COLUMNS = {
    "meta": ("snapshot", "release", "hostname", "crash_time", "source"),
    "leaks": ("snapshot", "kind", "confidence", "pages", "allocations", "allocator", "stack_id"),
    "verdicts": ("snapshot", "finding", "level", "text", "rule", "link", "pages"),
    "suspects": ("snapshot", "stack_id", "allocator", "pages", "pages_per_hour", "score"),
    "stacks": ("snapshot", "stack_id", "allocator", "pages"),
    "frag": ("snapshot", "healthy", "verdict"),
    "runs": ("status", "reason", "release", "build_id", "dump"),
}

_DIFF = """
    with dumps as (select count(*) filter (release = $before) as before,
                   count(*) filter (release = $after) as after from meta),
    held as (select {keys},
             sum(pages) filter (release = $before) as before,
             sum(pages) filter (release = $after) as after,
             count(distinct snapshot) filter (release = $before) as dumps_before,
             count(distinct snapshot) filter (release = $after) as dumps_after
             from stacks join meta using (snapshot) where release in ($before, $after)
             group by {by}),
    lost as (select {by}, sum(pages) as leaked from leaks join meta using (snapshot)
             where release = $after group by {by})
    select {names},
        round(coalesce(held.before, 0) / dumps.before, 1) as pages_per_dump_before,
        round(coalesce(held.after, 0) / dumps.after, 1) as pages_per_dump_after,
        round(coalesce(held.after, 0) / dumps.after - coalesce(held.before, 0) / dumps.before, 1)
            as change,
        round(100.0 * dumps_before / dumps.before, 1) as percent_of_dumps_before,
        round(100.0 * dumps_after / dumps.after, 1) as percent_of_dumps_after,
        coalesce(leaked, 0)::bigint as leaked_pages_after
    from held left join lost using ({by}), dumps order by change desc, {by}"""

DIFFS: Mapping[str, Question] = {
    "allocator": Question(
        "Allocators from one kernel to another", ("meta", "stacks", "leaks"),
        _DIFF.format(by="allocator", keys="allocator", names="allocator"),
    ),
    "stack": Question(
        "Stacks from one kernel to another", ("meta", "stacks", "leaks"),
        _DIFF.format(
            by="stack_id", keys="stack_id, any_value(allocator) as allocator",
            names="stack_id, allocator",
        ),
    ),
}  # fmt: skip
"""Queries of ``fleet diff``: pages per dump of every allocator, or of every stack, in the dumps of
two kernels. Names of functions change from release to release, so few stacks occur in both."""


def ask_dataset(
    dataset: Dataset,
    questions: Mapping[str, Question],
    limit: int | None,
) -> dict[str, Answer]:
    """
    Run queries on a dataset.

    :param questions: The queries, by name.
    :param limit: Maximum number of rows of each result; ``None`` for all rows.
    :return: The result of each query, by name.
    :raises PageOwnerError: if a file of the dataset cannot be read
    """
    database = open_database([dataset])
    tables = sorted({t for q in questions.values() for t in q.tables})
    add_views(database, [dataset], tables)
    if len(questions) > 1:
        _keep(database, dataset, tables)
    result = {}
    for name, question in questions.items():
        query = question.sql if limit is None else f"from ({question.sql}) limit {limit}"
        try:
            values = dict(question.values) if question.values else None
            cursor = database.execute(query, values) if values else database.execute(query)
            columns = [column[0] for column in cursor.description]
            result[name] = Answer(columns, cursor.fetchall())
        except Exception as error:
            message = " ".join(str(error).split("\n\n")[0].split())
            raise PageOwnerError(f"{dataset.place.name} cannot be asked: {message}") from error
    return result


def _keep(database: Any, dataset: Dataset, tables: Sequence[str]) -> None:
    """Copy the columns that queries need into memory, so that all queries read the files only
    once."""
    try:
        for table in tables:
            columns = ", ".join(_COLUMNS[table])
            database.execute(f"CREATE TABLE main.{table} AS SELECT {columns} FROM temp.{table}")
            database.execute(f"DROP VIEW temp.{table}")
    except Exception as error:
        message = " ".join(str(error).split("\n\n")[0].split())
        raise PageOwnerError(f"{dataset.place.name} cannot be asked: {message}") from error


def kernels_of(dataset: Dataset) -> list[str]:
    """Return the kernel releases in *dataset*, lowest version first."""
    question = Question("", ("meta",), "select distinct release from meta where release <> ''")
    rows = ask_dataset(dataset, {"": question}, None)[""].rows
    return sorted((row[0] for row in rows), key=_version)


def _version(release: str) -> list[tuple[int, str]]:
    """Return a sort key for a kernel release, which compares its numbers as numbers."""
    parts = re.findall(r"\d+|[^\d.-]+", release)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
