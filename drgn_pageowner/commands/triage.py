# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Run all analyses and write the results into a directory, for scripts.

  triage DIR                       info, account, top, leaks, suspects, frag, report, snapshot
  triage --rules builtin DIR       also verdicts on known causes, by the rules of this program

DIR/index.json has the verdicts and the outcome of every part; the text and the JSON of each part
are in the same directory. If a part fails, its error is recorded, and the others still run.

exit status: 0 nothing was found; 1 the dump lacks data (unreadable: the parts that did not
need it are in DIR); 2 usage; 3 something was found: leaks, out of memory, fragmentation,
a known cause whose rule says "bad"; 4 nothing was found, but a part of triage itself failed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from drgn_pageowner.analysis.leaks.reach import Reach
from drgn_pageowner.analysis.report import Report, report
from drgn_pageowner.analysis.triage import Triage, sum_up
from drgn_pageowner.analysis.verdicts import MIN_LEAKED_PAGES, KnownCause
from drgn_pageowner.commands.arguments import add_rules, count
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.commands.leaks import search
from drgn_pageowner.commands.parts import Outcome, Part, files_of, run_part
from drgn_pageowner.commands.report import read
from drgn_pageowner.errors import INTERNAL, PageOwnerError, UsageError
from drgn_pageowner.model.heap import Heap
from drgn_pageowner.model.kept import forget, keeping_results
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.scratch import memory_limit
from drgn_pageowner.model.session import Finish, Session
from drgn_pageowner.progress import progress, warn
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.triage import triage_text
from drgn_pageowner.rules.query import ask_rules
from drgn_pageowner.rules.rule import RuleSet, read_rules, verdicts_of
from drgn_pageowner.storage.files import cannot_write, remove_unfinished, replacing
from drgn_pageowner.storage.save import SearchPieces, search_pieces

SCHEMA = 1
INDEX = "index.json"
NOTHING_FOUND, UNANSWERED, FOUND = 0, 1, 3


def _judge_pages(session: Session) -> Report:
    return report(read(session, leaks=False))


def _judge(session: Session) -> Report:
    return report(read(session, slab=True))


PARTS = (
    Part("info", ("info",), {"table": "info.txt", "json": "info.json"}),
    Part("account", ("account", "--caches", "--zones"),
         {"table": "account.txt", "json": "account.json"}),
    Part("stacks", ("top", "--limit", "200"), {"table": "stacks.txt", "json": "stacks.json"}),
    Part("allocators", ("top", "--by", "allocator", "--limit", "200"),
         {"table": "allocators.txt", "json": "allocators.json"}),
    Part("tasks", ("top", "--by", "comm", "--limit", "200"),
         {"table": "tasks.txt", "json": "tasks.json"}),
    # Judge the pages before the search for leaks, so that the index has verdicts even if the search
    # runs out of memory.
    Part("pages", step=_judge_pages),
    Part("leaks", ("leaks", "--slab", "--limit", "0"),
         {"table": "leaks.txt", "json": "leaks.json"}),
    # Large machines have a hundred thousand of them, which nobody reads to the end.
    Part("suspects", ("leaks", "--suspects", "--limit", "1000"),
         {"table": "suspects.txt", "json": "suspects.json"}),
    Part("verdicts", step=_judge),
    Part("frag", ("frag", "all"), {"table": "frag.txt", "json": "frag.json"}),
    Part("report", ("report",), files=("report.html",)),
    Part("ticket", ("report",), files=("report.md",)),
    Part("snapshot", ("save", "--leaks"), files=("snapshot.parquet",)),
)  # fmt: skip

_AFTER_LEAKS, _BESIDE = "suspects", "snapshot"
"""The first part after the search for leaks, and the one that another process can run beside all
others, if it is the last. The search is what takes longest, and the snapshot needs only its
result."""

_RULES = "rules"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIR", type=Path, nargs="?", help="created if it does not exist"
    )
    parser.add_argument(
        "--force", action="store_true", help="write into DIR even if it is not empty"
    )
    parser.add_argument(
        "--min-pages", type=count, default=MIN_LEAKED_PAGES, metavar="N",
        help="minimum number of leaked pages that count as found (default: %(default)s)",
    )  # fmt: skip
    add_rules(parser)
    add_drgn(parser)


_DRGN = """\
from drgn_pageowner.analysis.report import report
from drgn_pageowner.analysis.triage import sum_up
from drgn_pageowner.commands.report import read
from drgn_pageowner.kernel.session import ProgramSession
found = report(read(ProgramSession.of(prog), slab=True))
triage = sum_up(found, min_pages={min_pages})
print(triage.headline)
for finding in triage.findings:
    print(finding.kind, finding.text)
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"rules": None})
    return print_lines(_DRGN.format(min_pages=args.min_pages), args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if getattr(args, "drgn", False):
        return _drgn(args, out)
    if args.directory is None:
        raise UsageError("the argument DIR is required (see drgn-pageowner triage --help)")
    directory: Path = args.directory
    where = getattr(args, "rules", None) or []
    rules = read_rules(where) if where else None
    with _only_one(directory):
        _prepare(directory, force=args.force)
        return _run(args, session, out, rules)


def _run(args: argparse.Namespace, session: Session, out: TextIO, rules: RuleSet | None) -> int:
    directory: Path = args.directory
    try:
        facts = session.facts()
    except PageOwnerError as error:
        _write(directory, _index(None, [], sum_up(None), error.exit_status, str(error)))
        raise
    outcomes: list[Outcome] = []
    parts = list(PARTS)
    if rules is not None:
        # Ask the rules as soon as there are verdicts.
        place = next((n for n, part in enumerate(parts, 1) if part.name == "verdicts"), len(parts))
        parts.insert(place, Part(_RULES, step=lambda session: _known_causes(session, rules)))

    def add(outcome: Outcome) -> None:
        outcomes.append(outcome)
        # Rewrite the index after each part, in case a later one is OOM-killed.
        verdicts = _verdicts(outcomes, args.min_pages)
        _write(directory, _index(facts, outcomes, verdicts, None))

    with keeping_results(), _saving(parts[-1], session, directory) as finish:
        _run_parts(parts, session, directory, add, finish)
    verdicts = _verdicts(outcomes, args.min_pages)
    status = _status(verdicts, outcomes)
    _write(directory, _index(facts, outcomes, verdicts, status))
    crashed = [o.error for o in outcomes if o.status == "crashed" and o.error is not None]
    warnings = [line for outcome in outcomes for line in outcome.warnings]
    for line in _each_once([*warnings, *crashed]):
        warn(line)
    out.writelines(triage_text(verdicts, outcomes, directory / INDEX))
    return status


def _run_parts(
    parts: Sequence[Part],
    session: Session,
    directory: Path,
    add: Callable[[Outcome], None],
    finish: Finish | None,
) -> None:
    """
    Run *parts*, and call *add* with the outcome of each.

    :param finish: The value of :func:`_saving`.
    """
    left = progress(parts, description="triage", total=len(parts), unit=" part")

    def run_next(number: int) -> None:
        for part in islice(left, number):
            if part.name == _BESIDE:
                # The graph of pointers takes much memory, and is not needed any more.
                forget(Heap)
                forget(Reach)
                session.forget_heap()
            add(run_part(part, session, directory))

    if finish is not None:
        before = [part.name for part in parts[:-1]]
        first = before.index(_AFTER_LEAKS) if _AFTER_LEAKS in before else len(before)
        run_next(first)
        _, found = session.at_once(
            [lambda: run_next(len(before) - first), lambda: _found_leaks(session)]
        )
        outcome = finish(found) if found is not False else None
        if outcome is not None:
            add(outcome)
            # It was run beside the others.
            next(left)
    run_next(len(parts))


def _found_leaks(session: Session) -> SearchPieces | str | bool:
    """
    Return what the search for leaks adds to the snapshot; ``False`` if that is an error of this
    program, or there is too little memory, which is reported when the snapshot is saved here.
    """
    try:
        return search_pieces(session, lambda: search(session, slab=True))
    except Exception:
        return False


@contextmanager
def _saving(part: Part, session: Session, directory: Path) -> Iterator[Finish | None]:
    """
    Let another process begin to run :data:`_BESIDE`.

    :param part: The last part.
    :return: Function to call with the result of the search for leaks, ready to be written: it
        returns the outcome, or ``None`` if the process died. ``None`` if this process must do it.
    """
    # Both together take more memory, which a limit says is scarce.
    if part.name != _BESIDE or memory_limit() is not None:
        yield None
        return
    try:
        with session.beside(
            lambda receive: run_part(part, session, directory, {"search": receive})
        ) as finish:
            yield finish
    finally:
        # A process that wrote it may have been killed.
        with suppress(OSError):
            remove_unfinished(directory, files_of(part))


def _each_once(lines: Sequence[str]) -> list[str]:
    """Leave out repeated lines, and reasons (``"what was left out: reason"``) already given."""
    found: list[str] = []
    given = set()
    for line in dict.fromkeys(lines):
        what, colon, reason = line.partition(": ")
        found.append(what if colon and reason in given else line)
        given |= {line, reason} if colon else {line}
    return found


def _known_causes(session: Session, rules: RuleSet) -> list[KnownCause]:
    inputs = read(session, slab=True)
    answers = ask_rules(rules, session, report(inputs), inputs.inventory)
    for line in answers.errors:
        warn(line)
    return verdicts_of(answers.matches, inputs.facts.page_size)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """
    Create *directory* if needed, and lock it, because two triages would mix their files.

    :raises UsageError: if it is not a directory, or another triage writes into it
    :raises PageOwnerError: if it cannot be created
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{directory} is not a directory") from error
    except OSError as error:
        raise PageOwnerError(f"cannot write to {directory}: {error.strerror}") from error
    try:
        # Not every file system supports locks on directories.
        with suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{directory}: another triage is writing into it; name another directory"
                ) from None
        yield
    finally:
        os.close(lock)


def _prepare(directory: Path, *, force: bool) -> None:
    """
    Remove the files of an earlier triage from *directory*.

    :raises UsageError: if *directory* is not empty
    :raises PageOwnerError: if it cannot be written
    """
    try:
        if not force and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty: name another, or pass --force")
        names = [INDEX, *(n for part in (*PARTS, Part(_RULES)) for n in files_of(part))]
        for name in names:
            (directory / name).unlink(missing_ok=True)
        remove_unfinished(directory, names)
    except OSError as error:
        raise PageOwnerError(f"cannot write to {directory}: {error.strerror}") from error


def _verdicts(outcomes: Sequence[Outcome], min_pages: int) -> Triage:
    reports = [outcome.result for outcome in outcomes if isinstance(outcome.result, Report)]
    # A bad rule is not a problem of the dump.
    problems = [line for one in outcomes if one.name != _RULES for line in one.problems()]
    causes = [v for one in outcomes if one.name == _RULES for v in one.result or ()]
    found = reports[-1] if reports else None
    return sum_up(found, problems, min_pages=min_pages, causes=causes)


def _status(verdicts: Triage, outcomes: Sequence[Outcome]) -> int:
    if verdicts.findings:
        return FOUND
    if any(outcome.exit_status == INTERNAL for outcome in outcomes):
        return INTERNAL
    return NOTHING_FOUND if verdicts.answered else UNANSWERED


def _index(
    facts: Facts | None,
    outcomes: Sequence[Outcome],
    verdicts: Triage,
    status: int | None,
    error: str | None = None,
) -> dict[str, Any]:
    """
    Return the contents of index.json, which docs/formats.md documents.

    :param status: Exit status of the triage; ``None`` while parts are missing.
    """
    from drgn_pageowner import __version__

    members = ("release", "version", "hostname", "arch", "page_owner", "now_ns", "live",
               "panic_message")  # fmt: skip
    return {
        "schema": SCHEMA,
        "version": __version__,
        "status": status,
        "error": error,
        "kernel": {name: getattr(facts, name) for name in members} if facts is not None else None,
        "found": bool(verdicts.findings),
        "verdicts": asdict(verdicts),
        "parts": [outcome.entry() for outcome in outcomes],
    }


def _write(directory: Path, index: dict[str, Any]) -> None:
    """Write the index atomically, so that readers never see a part of it."""
    try:
        with replacing(directory / INDEX) as file:
            for piece in json_text(index):
                file.write(piece.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(directory / INDEX, error) from error
