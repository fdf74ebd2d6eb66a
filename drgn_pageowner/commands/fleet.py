# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Decode many dumps into a dataset, on one machine or many, and query the results.

  fleet ingest 'dumps/*/vmcore' --symbols-store /srv/debug -o DATASET
  fleet ingest @list.txt s3://dumps/2026/ --scheduler tcp://head:8786 -o s3://fleet/dataset
  fleet report DATASET OUT.html    kernels, findings, stacks, hosts, regressions
  fleet top DATASET leaks          one question: kernels, findings, leaks, growth, hosts, ...
  fleet diff DATASET --kernel 6.1.170 6.1.176
                                   pages per dump, from one kernel to another
  fleet rules DATASET              known causes in all dumps, by rules (docs/rules.md)

WHERE is a dump, a directory, a pattern, a URL, or @FILE with one of these on each line. Every dump
is a job: its symbols are found by the build ID of its kernel, and it is decoded, searched for leaks
and written in a separate process with limited time and memory. Dumps that are in the dataset
already are skipped, so an interrupted ingest can be continued; several ingests may run at the same
time. Jobs run on dask.distributed (pip install 'drgn-pageowner[fleet]'); docs/fleet.md has more.

exit status: 0 all dumps are in the dataset; 1 some are not (a line for each says why); 2 usage.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from itertools import pairwise
from typing import TextIO

from drgn_pageowner.commands.arguments import add_limit, add_rules, count, limit_of
from drgn_pageowner.commands.drgn_lines import refuse_drgn
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.escape import word
from drgn_pageowner.fleet.questions import (
    DIFFS,
    QUESTIONS,
    TOTALS,
    Answer,
    Question,
    ask_dataset,
    kernels_of,
)
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.fleet_answer import answer_text
from drgn_pageowner.render.fleet_report import FleetSection, fleet_headline, fleet_html
from drgn_pageowner.render.query import query_json
from drgn_pageowner.rules.dataset import CAUSES, check_rules, known_causes
from drgn_pageowner.rules.rule import BUILTIN, read_rules
from drgn_pageowner.storage.dataset import MARKER, Dataset

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_SECONDS, _MEMORY = 1800, "8G"
_ROWS, _ROWS_OF_REPORT = 20, 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    views = parser.add_subparsers(dest="view", metavar="VIEW", required=True)
    one = views.add_parser("ingest", help="decode dumps into a dataset")
    one.add_argument("where", metavar="WHERE", nargs="+", help="dumps: see above")
    one.add_argument(
        "-o", "--dataset", metavar="DIR|URL", required=True, help="the dataset to write to"
    )
    one.add_argument(
        "--symbols-store", metavar="DIR", action="append", default=[],
        help="look for vmlinux files there (by build ID; packed ones, and the layouts of "
        "distributions); may be repeated. /usr/lib/debug and $DEBUGINFOD_URLS are tried, too",
    )  # fmt: skip
    one.add_argument("--no-leaks", action="store_true", help="do not search for leaks: faster")
    add_rules(one)
    one.add_argument(
        "--jobs", metavar="N", type=count,
        help="at most N at once on this machine (default: one per CPU, as far as memory suffices)",
    )  # fmt: skip
    one.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="use the workers of this dask scheduler (tcp://HOST:PORT) instead of this machine",
    )  # fmt: skip
    one.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=_SECONDS,
        help="limit of the time for one dump (default: %(default)s)",
    )  # fmt: skip
    one.add_argument(
        "--memory", metavar="SIZE", type=memory_size, default=_MEMORY,
        help="limit of the memory for one dump, as in 500M or 8G (default: %(default)s)",
    )  # fmt: skip
    one.add_argument(
        "--scratch", metavar="DIR",
        help="directory for copies of dumps that are in an object store (default: $TMPDIR)",
    )  # fmt: skip
    one.add_argument(
        "--retry-failed", action="store_true", help="try dumps again that failed earlier"
    )
    _add_format(one)
    two = views.add_parser("top", help="answer a question over all dumps of a dataset")
    _add_dataset(two)
    two.add_argument(
        "question", metavar="QUESTION", nargs="?", default="leaks", choices=list(QUESTIONS),
        help=f"one of {', '.join(QUESTIONS)} (default: %(default)s)",
    )  # fmt: skip
    three = views.add_parser("diff", help="compare two kernels, in pages per dump")
    _add_dataset(three)
    three.add_argument(
        "--kernel",
        dest="kernels",
        metavar=("BEFORE", "AFTER"),
        nargs=2,
        required=True,
        help="releases of kernels",
    )
    three.add_argument(
        "--by", choices=list(DIFFS), default="allocator",
        help="what to compare (default: %(default)s)",
    )  # fmt: skip
    five = views.add_parser("rules", help="look for known causes in all dumps of a dataset")
    _add_dataset(five)
    add_rules(five)
    for parser_ in (two, three, five):
        add_limit(parser_, "rows", "20")
        _add_format(parser_)
    four = views.add_parser("report", help="write one HTML page about all dumps of a dataset")
    _add_dataset(four)
    four.add_argument("output", metavar="OUT.html", help="the file to write (-: standard output)")
    add_limit(four, "rows of every table", "50")
    # The page is written to the file unchanged.
    four.set_defaults(format="html")
    for parser_ in (parser, one, two, three, four, five):
        refuse_drgn(parser_, "fleet reads datasets, not the dump that drgn has open")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="directory or URL")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("table", "json"), default="table",
        help="what to print (default: %(default)s)",
    )  # fmt: skip


def memory_size(text: str) -> int:
    """Convert ``"500M"`` or ``"8G"`` to bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give a number and K, M, G or T")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    views = {
        "ingest": _ingest, "top": _top, "diff": _diff, "report": _report, "rules": _rules,
    }  # fmt: skip
    return views[args.view](args, out)


def _opened(where: str) -> Dataset:
    dataset = Dataset(where)
    if not dataset.exists:
        raise PageOwnerError(f"{where} is no dataset: it has no {MARKER}")
    return dataset


def _top(args: argparse.Namespace, out: TextIO) -> int:
    asked = {args.question: QUESTIONS[args.question]}
    answer = ask_dataset(_opened(args.dataset), asked, limit_of(args, _ROWS))[args.question]
    _print(args, QUESTIONS[args.question].title, answer, out)
    return 0


def _diff(args: argparse.Namespace, out: TextIO) -> int:
    dataset = _opened(args.dataset)
    known = kernels_of(dataset)
    for release in args.kernels:
        if release not in known:
            raise UsageError(
                f"there are no dumps of {release}: there are some of {', '.join(known) or 'none'}"
            )
    before, after = args.kernels
    asked = {"": replace(DIFFS[args.by], values={"before": before, "after": after})}
    title = f"Pages per dump from {before} to {after}, by {args.by}"
    _print(args, title, ask_dataset(dataset, asked, limit_of(args, _ROWS))[""], out)
    return 0


def _rules(args: argparse.Namespace, out: TextIO) -> int:
    rules = read_rules(args.rules or [BUILTIN])
    causes, errors = known_causes(rules, _opened(args.dataset))
    for line in errors:
        warn(line)
    limit = limit_of(args, _ROWS)
    _print(args, "Known causes", Answer(CAUSES, causes if limit is None else causes[:limit]), out)
    return 0


def _print(args: argparse.Namespace, title: str, answer: Answer, out: TextIO) -> None:
    if args.format == "json":
        out.writelines(query_json(answer.names, answer.rows))
    else:
        out.writelines(answer_text(title, answer.names, answer.rows))


def _section(name: str, question: Question, answer: Answer) -> FleetSection:
    if question.values is None:
        return FleetSection(name, question.title, answer.names, answer.rows)
    place = answer.names.index("change")
    rows = [row for row in answer.rows if row[place] is not None and row[place] > 0]
    return FleetSection(name, question.title, answer.names, rows, "Pages are per dump.")


def _report(args: argparse.Namespace, out: TextIO) -> int:
    dataset, limit = _opened(args.dataset), limit_of(args, _ROWS_OF_REPORT)
    # Compare each of the last three kernels with the one before.
    changes = {
        f"in-{after}": replace(
            DIFFS["allocator"],
            title=f"What holds more in {after} than in {before}",
            values={"before": before, "after": after},
        )
        for before, after in pairwise(kernels_of(dataset)[-3:])
    }
    asked = {**QUESTIONS, **changes}
    answers = ask_dataset(dataset, {**asked, "": TOTALS}, limit)
    totals = answers.pop("")
    sections = [_section(name, asked[name], answer) for name, answer in answers.items()]
    numbers = list(zip(totals.names, totals.rows[0], strict=True))
    subtitle = f"All dumps of {dataset.place.name}; made by drgn-pageowner."
    known = {section.id: section for section in sections}
    headline = fleet_headline(dict(numbers), known["leaks"], known["causes"])
    out.writelines(fleet_html("Memory of a fleet", subtitle, headline, numbers, sections))
    if args.output != "-":
        args.standard_output.write(f"{word(args.output)}: {word(headline.text)}\n")
    return 0


def _ingest(args: argparse.Namespace, out: TextIO) -> int:
    from drgn_pageowner.fleet.dumps import find_dumps
    from drgn_pageowner.fleet.ingest import ingest
    from drgn_pageowner.fleet.job import Job
    from drgn_pageowner.render.fleet import IngestSummary, ingest_json, ingest_text
    from drgn_pageowner.storage.places import Place, is_url

    if args.timeout <= 0 or args.memory <= 0:
        raise UsageError("--timeout and --memory take numbers greater than 0")
    if args.jobs == 0:
        raise UsageError("--jobs takes a number greater than 0")
    where_rules = args.rules or []
    if where_rules:
        for line in check_rules(read_rules(where_rules)):
            warn(line)
    dumps = find_dumps(args.where)
    if not dumps:
        raise UsageError(f"there are no dumps in {', '.join(args.where)}")
    place = Place(args.dataset)
    Dataset(place).create()
    where = args.dataset if is_url(args.dataset) else place.root
    symbols = [os.path.abspath(path) for path in getattr(args, "symbols", None) or ()]
    stores = [os.path.abspath(path) for path in (*args.symbols_store, "/usr/lib/debug", "/boot")]
    jobs = [
        Job(
            dump=dump if is_url(dump) else os.path.abspath(dump),
            dataset=where,
            symbols=symbols,
            stores=stores,
            seconds=args.timeout,
            memory=args.memory,
            leaks=not args.no_leaks,
            rules=[w if w == BUILTIN else os.path.abspath(w) for w in where_rules],
            scratch=args.scratch,
            retry_failed=args.retry_failed,
        )
        for dump in dumps
    ]
    done = ingest(jobs, scheduler=args.scheduler, most_jobs=args.jobs)
    for one in done.failed:
        warn(f"{one.dump}: {one.status}: {one.reason}")
    if any(one.earlier for one in done.failed):
        warn("some of these failed in an earlier ingest and were not tried again: --retry-failed")
    summary = IngestSummary(
        done.numbers(), [one.summary() for one in done.failed], done.seconds, done.per_minute,
        done.workers, done.peak_bytes,
    )  # fmt: skip
    text = ingest_json(summary) if args.format == "json" else ingest_text(summary, args.dataset)
    out.writelines(text)
    return 1 if done.failed else 0
