# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare our output on a running kernel with the kernel's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ("Check", "account", "answers", "counters", "owner_texts", "top_stacks", "watch")

_STAMP = re.compile(rb"\bts (\d+) ns")
_PFN = re.compile(rb"^PFN (0x[0-9a-f]+|\d+)", re.M)
_FLAGS = re.compile(rb" Flags 0x\S+")
_DRIPPED = re.compile(r"po_drip: dripped allocations=(\d+) pages=(\d+) ns=(\d+)")
_LEAK = "po_drip_leak_one+"


class Check(NamedTuple):
    """A comparison: its subject, whether it succeeded, and the numbers."""

    name: str
    good: bool
    text: str


def owner_texts(name: str, before: bytes, ours: bytes, after: bytes, clock: float) -> Check:
    """
    Compare the records of three texts of page_owner, of which the second is ours.

    Records that are the same in both texts of the kernel, and older than *clock* (seconds, read
    before the first text), must be the same in our text, and our text must have no other records
    that old. Page flags are ignored, because they may change temporarily: those of slabs
    (``workingset`` marks partial slabs), or of pages of a process that forks.
    """
    one, mine, two = map(_records, (before, ours, after))
    limit = int(clock * 10**9)
    steady = {key: text for key, text in one.items() if two.get(key) == text and key[1] < limit}
    equal = sum(mine.get(key) == text for key, text in steady.items())
    missing = sum(key not in mine for key in steady)
    flags = sum(
        mine[key] != text and _FLAGS.sub(b"", mine[key]) == _FLAGS.sub(b"", text)
        for key, text in steady.items()
        if key in mine
    )
    different = len(steady) - equal - flags - missing
    extra = [key for key in mine if key[1] < limit and key not in one]
    return Check(
        name,
        not (different or missing or extra) and flags < len(steady) / 100 and len(steady) > 1000,
        f"{len(one):,} and {len(two):,} records by the kernel, {len(steady):,} of them steady and "
        f"older than the first reading; of these {equal:,} equal, "
        f"{flags:,} with other page flags, {different:,} different, {missing:,} missing; "
        f"{len(mine):,} records by us, {len(extra):,} of them older and not the kernel's",
    )


def _records(text: bytes) -> dict[tuple[int, int], bytes]:
    """Return PFN and timestamp -> text of the record."""
    result = {}
    for record in text.split(b"\n\n"):
        stamp, pfn = _STAMP.search(record), _PFN.search(record)
        if stamp and pfn:
            result[int(pfn[1], 0), int(stamp[1])] = record.strip()
    return result


def top_stacks(before: str, ours: str, after: str) -> Check:
    """Compare the pages of each stack in ``page_owner_stacks/show_stacks`` and ``top --format
    json``."""
    one, two = _stacks(before), _stacks(after)
    groups = {
        "".join(f" {frame}\n" for frame in group["stack"]): group["pages"]
        for group in json.loads(ours)["groups"]
    }
    steady = {stack: pages for stack, pages in one.items() if two.get(stack) == pages}
    off = {stack: abs(groups.get(stack, 0) - pages) for stack, pages in steady.items()}
    equal = sum(not pages for pages in off.values())
    # The process that reads the kernel's text has the same amount of memory each time, and does not
    # exist in between.
    pages = sum(steady.values())
    return Check(
        "top",
        sum(off.values()) <= 0.002 * pages and equal >= 0.8 * len(steady) and len(steady) > 50,
        f"{len(one):,} stacks by the kernel, {len(steady):,} of them with as many pages before as "
        f"after ({pages:,} pages); {equal:,} of these equal, "
        f"the others {sum(off.values()):,} pages off",
    )


def _stacks(text: str) -> dict[str, int]:
    result: dict[str, int] = {}
    for part in re.finditer(r"((?:^ .*\n)+)(?:nr_base_pages|stack_count): (\d+)", text, re.M):
        result[part[1]] = result.get(part[1], 0) + int(part[2])
    return result


def counters(name: str, before: str, ours: str, after: str, slack: int) -> Check:
    """
    Compare three texts with the same lines of numbers, of which the second is ours.

    The sum of each line (in pages, for lines of free blocks) must be between those of the first and
    the third text, with a tolerance of *slack* pages.
    """
    one, mine, two = map(_sums, (before, ours, after))
    off = {
        key: max(min(one[key], two[key]) - mine[key], mine[key] - max(one[key], two[key]), 0)
        for key in one.keys() & mine.keys() & two.keys()
    }
    return Check(
        name,
        one.keys() == mine.keys() and max(off.values(), default=0) <= slack and bool(off),
        f"{len(off)} lines of {len(one)}; {sum(not value for value in off.values())} lie between "
        f"the kernel's before and after, the others at most {max(off.values(), default=0):,} pages "
        f"beside; in all {sum(one.values()):,} by the kernel, {sum(mine.values()):,} by us, "
        f"{sum(two.values()):,} by the kernel",
    )


def _sums(text: str) -> dict[str, int]:
    result: dict[str, int] = {}
    for line in text.splitlines():
        words = re.fullmatch(r"(Node.*?[A-Za-z]\w*)((?: +\d+)+) *", line)
        if words:
            numbers = [int(word) for word in words[2].split()]
            # Lines of free blocks have a column per order; lines of pageblocks have fewer columns.
            by_order = len(numbers) > 8
            total = sum(n << order if by_order else n for order, n in enumerate(numbers))
            key = words[1] + (" pages" if by_order else " blocks")
            # /proc/pagetypeinfo prints mixed pageblocks after all pageblocks.
            result[f"{key} mixed" if key in result else key] = total
    return result


def account(ours: str, slack: int) -> Check:
    """Check that every page is in one class, and that the kernel's counters differ little."""
    result = json.loads(ours)
    pages = sum(row["pages"] for row in result["classes"])
    counted = {
        row["name"]: row["counter"]["difference"] for row in result["classes"] if row["counter"]
    }
    worst = max(counted, key=lambda name: abs(counted[name]))
    return Check(
        "account",
        result["present"] == pages and abs(counted[worst]) <= slack,
        f"{pages:,} of {result['present']:,} pages in a class; {len(counted)} counters, "
        f"{sum(not value for value in counted.values())} equal, the others at most "
        f"{abs(counted[worst]):,} pages off ({worst})",
    )


def watch(name: str, ours: str, log: str) -> Check:
    """
    Check that the leak is shown by the second round, and grows at the rate of the module; a reading
    in an emulated guest may take a second, so the pages leaked in a second are tolerated.
    """
    said = [(int(m[3]), int(m[2])) for m in _DRIPPED.finditer(log)]
    rounds = [json.loads(line) for line in ours.splitlines()]
    rounds_of_leak, places = [], []
    for result in rounds:
        if result["kind"] != "round" or result["number"] > 2:
            continue
        for place, group in enumerate(result["groups"], 1):
            if any(frame.startswith(_LEAK) for frame in group["stack"]):
                places.append(place)
                rounds_of_leak.append((result, group))
    shown, good = [], bool(places)
    for result, group in rounds_of_leak:
        end, seconds = result["now_ns"], result["elapsed_ns"] / 10**9
        theirs = _leaked(said, end) - _leaked(said, end - result["elapsed_ns"])
        good &= abs(group["grown_pages"] - theirs) <= theirs / seconds
        shown.append(
            f"{group['grown_pages']:,} pages in {seconds:.2f} s ({theirs:,.0f} by the module), "
            f"{group['pages_per_second']:.1f}/s ({theirs / seconds:.1f}/s)"
        )
    return Check(name, good, f"the leak is number {places} of what grew; " + "; ".join(shown))


def _leaked(said: Sequence[tuple[int, int]], now_ns: int) -> float:
    """Return the number of pages that the module had leaked at this time, from the two nearest
    lines of its log."""
    before = max((one for one in said if one[0] <= now_ns), default=(now_ns, 0))
    after = min((one for one in said if one[0] > now_ns), default=before)
    if after[0] == before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (now_ns - before[0]) / (after[0] - before[0])


def answers(name: str, directory: Path, statuses: dict[str, tuple[int, int]]) -> Check:
    """
    Check that commands ended with the expected status, and without a traceback.

    :param statuses: Name of the command's output -> its exit status and the expected one.
    """
    wrong = [
        f"{command}: status {status}" for command, (status, right) in statuses.items()
        if status != right
    ]  # fmt: skip
    lines = []
    for command in statuses:
        said = (directory / f"{command}.err").read_text(errors="replace").splitlines()
        # Except for progress and messages of drgn, every error must be one line.
        wrong += [f"{command}: {line}" for line in said if "Traceback" in line]
        lines += [line for line in said if "changed while" in line]
    return Check(
        name, not wrong, "; ".join(wrong) or f"{len(statuses)} commands; " + " | ".join(lines)
    )
