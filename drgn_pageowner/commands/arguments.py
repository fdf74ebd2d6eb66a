# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arguments that several commands share, with the same meaning in each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from drgn_pageowner.analysis.owners.group import GROUP_KEYS
from drgn_pageowner.analysis.owners.select import CRITERIA, Filter
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.columns import Match
from drgn_pageowner.progress import warn

if TYPE_CHECKING:
    from drgn_pageowner.model.heap import HeapTarget
    from drgn_pageowner.model.session import Session

__all__ = (
    "WHAT",
    "add_by",
    "add_destination",
    "add_filters",
    "add_least",
    "add_limit",
    "add_output",
    "add_rules",
    "add_types",
    "count",
    "filter_of",
    "least_pages",
    "limit_of",
    "refuse_option",
    "report_problems",
    "sort_keys",
    "targets_of",
)

T = TypeVar("T")

WHAT = "pfn:N, phys:A, task:PID, or an address"
"""Description of the arguments that :func:`targets_of` accepts."""

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)


def _time_ns(text: str, unit: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None or (match.group(2).lower() or unit) not in _UNITS_NS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: give a number and one of {', '.join(_UNITS_NS)}"
        )
    scale = _UNITS_NS[match.group(2).lower() or unit]
    number = match.group(1)
    return int(number) * scale if number.isdigit() else round(float(number) * scale)


def duration(text: str) -> int:
    """Convert ``"90"`` (seconds), ``"1.5h"`` or ``"20ms"`` to nanoseconds."""
    return _time_ns(text, "s")


def timestamp(text: str) -> int:
    """Convert a time since boot, as page_owner (an integer) or dmesg prints it, to nanoseconds."""
    return _time_ns(text, "s" if "." in text else "ns")


def integer(text: str) -> int:
    """Convert a decimal number, or a hexadecimal one with ``0x``."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def number_range(text: str) -> tuple[int, int]:
    """Convert ``"3"``, ``"2-4"``, ``"2-"`` or ``"-4"`` to the first and the last number."""
    first, dash, last = text.partition("-")
    if not dash:
        return integer(text), integer(text)
    low = integer(first) if first else 0
    high = integer(last) if last else (1 << 62)
    if low > high:
        raise argparse.ArgumentTypeError(f"{text!r} is empty: its end is before its start")
    return low, high


def listed(convert: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return a function that converts comma-separated values."""

    def convert_all(text: str) -> list[T]:
        return [convert(part) for part in text.split(",") if part]

    return convert_all


def count(text: str) -> int:
    """Convert a number that must not be negative."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def byte_size(text: str) -> int:
    """Convert ``"4096"``, ``"64K"``, ``"1.5M"`` or ``"2GiB"`` to bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give a number of bytes, or one with K, M, G or T"
        )
    power = " kmgt".index(match.group(2).lower() or " ")
    return int(float(match.group(1)) * (1 << 10 * power))


def add_least(parser: argparse._ActionsContainer, rows: str) -> None:
    """
    Add ``--min-pages`` and ``--min-size``: see :func:`least_pages`.

    :param rows: Name of the rows that the options select.
    """
    parser.add_argument(
        "--min-pages", type=count, default=0, metavar="N", help=f"{rows} of at least N pages"
    )
    parser.add_argument(
        "--min-size", type=byte_size, default=0, metavar="SIZE",
        help=f"{rows} of at least SIZE (4096, 64K, 1.5M)",
    )  # fmt: skip


def least_pages(args: argparse.Namespace, page_size: int) -> int:
    """Return the minimum number of base pages of a row, from ``--min-pages`` or ``--min-size``."""
    pages: int = max(args.min_pages, -(-args.min_size // page_size))
    return pages


_Converter = tuple[Callable[[str], object], str]

_FLAGS = re.compile(r"[,|]")

_CONVERTERS: Mapping[Match, _Converter] = {
    Match.NUMBERS: (listed(integer), "LIST"),
    Match.NODES: (listed(integer), "LIST"),
    Match.RANGE: (number_range, "N|N-M"),
    Match.PFNS: (number_range, "N|N-M"),
    Match.NAMES: (listed(str), "LIST"),
    Match.FLAGS: (lambda text: [name for name in _FLAGS.split(text) if name], "LIST"),
    Match.PATTERNS: (listed(str), "LIST"),
}
"""Function that converts the value of a filter's option, and its name in ``--help``."""

_RANGES = (Match.RANGE, Match.PFNS)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options of filters, from which :func:`filter_of` makes a :class:`Filter`."""
    group = parser.add_argument_group(
        "filters", "A record must pass all that are given. LISTs are comma-separated."
    )

    def add_list(option: str, convert: Callable[[str], object], metavar: str, help_: str) -> None:
        group.add_argument(
            option, type=convert, metavar=metavar, help=help_, action="extend", default=[]
        )

    for column in CRITERIA.values():
        criterion = column.criterion
        assert criterion is not None
        convert, metavar = _CONVERTERS[criterion.match]
        option = f"--{criterion.name}"
        if criterion.match in _RANGES:
            group.add_argument(option, type=convert, metavar=metavar, help=criterion.help)
        else:
            add_list(option, convert, metavar, criterion.help)
    add_list("--module", listed(str), "LIST", "with a frame in one of these modules (* ? [] match)")
    group.add_argument(
        "--stack-contains",
        metavar="FUNC",
        action="append",
        default=[],
        help="with this in the name of a function in the stack (* ? [] match); repeated: with "
        "all of them",
    )
    group.add_argument(
        "--min-age", type=duration, metavar="TIME", help="at least this old (90, 20ms, 1.5h)"
    )
    group.add_argument("--max-age", type=duration, metavar="TIME", help="at most this old")
    group.add_argument(
        "--since",
        type=timestamp,
        metavar="TIME",
        help="allocated at or after this time since boot: ns as page_owner prints it, "
        "or s as dmesg does (12.5, 12s)",
    )
    group.add_argument("--until", type=timestamp, metavar="TIME", help="at or before this time")
    group.add_argument(
        "--freed",
        action="store_true",
        help="records of pages that were freed (their last owner), instead of allocated ones",
    )


def filter_of(args: argparse.Namespace) -> Filter:
    """Return the filter that the options of :func:`add_filters` describe."""
    given = {name: getattr(args, name.replace("-", "_")) for name in CRITERIA}
    return Filter(
        {name: values for name, values in given.items() if values},
        module=args.module,
        stack_contains=args.stack_contains,
        min_age_ns=args.min_age,
        max_age_ns=args.max_age,
        since_ns=args.since,
        until_ns=args.until,
        freed=args.freed,
    )


# Synonyms of keys.
_KEYS = {"function": "allocator", "func": "allocator", "caller": "allocator", "size": "pages",
         "bytes": "pages", "count": "allocations", "task": "comm", "name": "comm",
         "command": "comm", "stacktrace": "stack", "trace": "stack", "callchain": "stack",
         "cgroup": "memcg", "thread": "pid"}  # fmt: skip


def _key(text: str) -> str:
    """Return the key of which *text* is a synonym, or *text* itself."""
    reverse = text.startswith("-")
    name = text.removeprefix("-")
    return f"{'-' * reverse}{_KEYS.get(name, name)}"


def sort_keys(text: str) -> list[str]:
    """Convert the comma-separated value of ``--sort``."""
    return [_key(part) for part in text.split(",") if part]


def add_by(parser: argparse.ArgumentParser, more: str = "") -> None:
    """
    Add ``--by``.

    :param more: Text about further keys.
    """
    parser.add_argument(
        "--by",
        type=listed(_key),
        default=["stack"],
        metavar="LIST",
        help="group by these, comma-separated (default: stack): " + ", ".join(GROUP_KEYS) + more,
    )


def add_types(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-types``."""
    parser.add_argument(
        "--no-types",
        action="store_true",
        help="do not infer types: treat every word that may be a pointer as one",
    )


def add_limit(parser: argparse.ArgumentParser, rows: str, default: str) -> None:
    """
    Add ``--limit``, which means the same in every command: see :func:`limit_of`.

    :param rows: Name of the rows that it limits.
    :param default: The default, in words.
    """
    parser.add_argument(
        "-n",
        "--limit",
        type=count,
        metavar="N",
        help=f"show the first N {rows} (default: {default}; 0: all)",
    )


def limit_of(args: argparse.Namespace, default: int | None) -> int | None:
    """
    Return the maximum number of rows to show, or ``None`` for all.

    :param default: The limit if ``--limit`` is not given.
    """
    if args.limit is None:
        return default
    return args.limit or None


def add_output(parser: argparse.ArgumentParser, *formats: str) -> None:
    """
    Add ``--format`` and ``-o``, which mean the same in every command.

    :param formats: The formats; the first is the default. ``table`` is the one for people.
    """
    parser.add_argument(
        "--format",
        # "text" is the former name of the format "table" in some commands.
        type=lambda name: "table" if name == "text" and name not in formats else name,
        choices=formats,
        default=formats[0],
        help="what to print (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to FILE instead of standard output (-)",
    )


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add ``--rules``, which may be repeated: a list, ``None`` if it is not given."""
    parser.add_argument(
        "--rules", metavar="DIR", action="append",
        help="look for the known causes that the files *.toml in DIR describe (docs/rules.md); "
        "builtin: those of this program; may be repeated",
    )  # fmt: skip


def add_destination(
    parser: argparse.ArgumentParser, dest: str, help_: str, *, required: bool = False
) -> Any:
    """
    Add ``OUT`` for a command whose answer is a file; ``-o OUT`` is the same.

    :param dest: The attribute to set; :func:`~drgn_pageowner.commands.run_command` opens the
        file of ``output``.
    :return: The group of arguments of which only one may be given.
    """
    group = parser.add_mutually_exclusive_group(required=required)
    # With argparse.SUPPRESS, a missing OUT does not overwrite the value of -o.
    group.add_argument(dest, nargs="?", default=argparse.SUPPRESS, metavar="OUT", help=help_)
    group.add_argument("-o", "--output", dest=dest, metavar="OUT", help="the same")
    return group


def refuse_option(parser: argparse.ArgumentParser, option: str, why: str) -> None:
    """
    Make *option* an error of a command, with or without a value.

    :param why: The reason, for the message.
    """

    class Refuse(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
            parser.error(f"{option}: {why}")

    parser.add_argument(option, action=Refuse, nargs="?", help=argparse.SUPPRESS)


def report_problems(problems: Iterable[str]) -> None:
    """Print the problems of the dump on stderr, one line each."""
    for problem in problems:
        warn(problem)


def targets_of(names: Sequence[str], session: Session) -> tuple[list[HeapTarget], int]:
    """
    Find the nodes for *names*; names without a node are reported on stderr.

    :return: The nodes of the heap, and the exit status.
    """
    found, status = [], 0
    for name in names:
        try:
            found.append(session.target(name))
        except PageOwnerError as error:
            # Continue with the other arguments.
            warn(str(error))
            status = max(status, error.exit_status)
    return found, status
