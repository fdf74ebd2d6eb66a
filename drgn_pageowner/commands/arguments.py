# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.progress import warn

if TYPE_CHECKING:
    from drgn_pageowner.model.heap import HeapTarget
    from drgn_pageowner.model.session import Session

__all__ = ("add_filters", "add_format", "filter_of", "report_problems", "targets_of")

T = TypeVar("T")

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
            f"{text!r} is no time: a number and one of {', '.join(_UNITS_NS)}"
        )
    scale = _UNITS_NS[match.group(2).lower() or unit]
    number = match.group(1)
    return int(number) * scale if number.isdigit() else round(float(number) * scale)


def duration(text: str) -> int:
    """``"90"`` (seconds), ``"1.5h"``, ``"20ms"`` in nanoseconds."""
    return _time_ns(text, "s")


def timestamp(text: str) -> int:
    """Nanoseconds since boot: as page_owner prints (an integer), or as dmesg does (``12.5``)."""
    return _time_ns(text, "s" if "." in text else "ns")


def integer(text: str) -> int:
    """A decimal number, or a hexadecimal one with ``0x``."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def number_range(text: str) -> tuple[int, int]:
    """``"3"``, ``"2-4"``, ``"2-"``, ``"-4"``: first and last."""
    first, dash, last = text.partition("-")
    if not dash:
        return integer(text), integer(text)
    low = integer(first) if first else 0
    high = integer(last) if last else (1 << 62)
    if low > high:
        raise argparse.ArgumentTypeError(f"{text!r} is empty: its end is before its start")
    return low, high


def listed(convert: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Comma-separated values."""

    def convert_all(text: str) -> list[T]:
        return [convert(part) for part in text.split(",") if part]

    return convert_all


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filters that :class:`Filter` describes."""
    group = parser.add_argument_group(
        "filters", "A record must pass all that are given. LISTs are comma-separated."
    )

    def add(option: str, convert: Callable[[str], object], metavar: str, help_: str) -> None:
        group.add_argument(
            option, type=convert, metavar=metavar, help=help_, action="extend", default=[]
        )

    add("--pid", listed(integer), "LIST", "allocated by these threads")
    add("--tgid", listed(integer), "LIST", "allocated by these processes")
    add("--comm", listed(str), "LIST", "allocated by tasks of these names (* ? [] match)")
    group.add_argument("--order", type=number_range, metavar="N|N-M", help="of this order")
    add("--gfp", _gfp_names, "LIST", "with these flags, as in GFP_KERNEL,__GFP_ZERO or a|b")
    add("--migratetype", listed(str), "LIST", "of these migratetypes, as gfp_mask asked for")
    add("--zone", listed(str), "LIST", "in these zones")
    add("--node", listed(integer), "LIST", "on these nodes")
    add("--module", listed(str), "LIST", "with a frame in one of these modules (* ? [] match)")
    group.add_argument(
        "--stack-contains",
        metavar="FUNC",
        action="append",
        default=[],
        help="with this function in the stack (* ? [] match); repeated: with all of them",
    )
    add("--handle", listed(integer), "LIST", "with these stack depot handles")
    group.add_argument("--pfn", type=number_range, metavar="N|N-M", help="holding these PFNs")
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
    add("--memcg", listed(str), "LIST", "charged to these memory cgroups (name or path; * ? [])")
    group.add_argument(
        "--freed",
        action="store_true",
        help="records of pages that were freed (their last owner), instead of allocated ones",
    )


def _gfp_names(text: str) -> list[str]:
    return [name for name in re.split(r"[,|]", text) if name]


def filter_of(args: argparse.Namespace) -> Filter:
    """The filter that the arguments of :func:`add_filters` say."""
    return Filter(
        pid=args.pid,
        tgid=args.tgid,
        comm=args.comm,
        order=args.order,
        gfp=args.gfp,
        migratetype=args.migratetype,
        zone=args.zone,
        node=args.node,
        module=args.module,
        stack_contains=args.stack_contains,
        handle=args.handle,
        pfn=args.pfn,
        min_age_ns=args.min_age,
        max_age_ns=args.max_age,
        since_ns=args.since,
        until_ns=args.until,
        freed=args.freed,
        memcg=args.memcg,
    )


def add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    """Add ``--format``; the first of *formats* is the default."""
    parser.add_argument(
        "--format",
        choices=formats,
        default=formats[0],
        help="what to print (default: %(default)s)",
    )


def report_problems(problems: Iterable[str]) -> None:
    """Say on stderr what is wrong with the dump, a line each."""
    for problem in problems:
        warn(problem)


def targets_of(names: Sequence[str], session: Session) -> tuple[list[HeapTarget], int]:
    """
    The nodes that *names* name, and an exit status: what names none is said in a line each.
    """
    found, status = [], 0
    for name in names:
        try:
            found.append(session.target(name))
        except PageOwnerError as error:
            # The others are answered all the same.
            warn(str(error))
            status = max(status, error.exit_status)
    return found, status
