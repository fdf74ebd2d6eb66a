# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render chains of pointers as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drgn_pageowner.analysis.leaks.links import Hop, References, Why
from drgn_pageowner.escape import word
from drgn_pageowner.render.fingerprint import fingerprint_text
from drgn_pageowner.render.table import counted

__all__ = ("refs_text", "why_text")


def why_text(result: Why) -> Iterator[str]:
    """Yield the chain, one line per word."""
    yield f"{result.what}: {result.name}\n"
    # Objects of a slab page are allocated, not the page.
    known = "" if result.explanation.startswith("a slab page: ") else f"{result.verdict}: "
    yield f"  {known}{result.explanation}\n"
    yield from _chain_lines(result.chain)
    for number, chain in enumerate(result.others, 2):
        equal = ", as short" if len(chain) == len(result.chain) else ""
        yield f"  chain {number} of {len(result.others) + 1}{equal}:\n"
        yield from _chain_lines(chain)
    if result.fingerprint is not None:
        yield from fingerprint_text(result.fingerprint, 1, dump=True)


def refs_text(result: References, limit: int | None = None) -> Iterator[str]:
    """
    Yield one line per word.

    :param limit: Maximum number of words that were searched for; ``None`` for all.
    """
    yield f"{result.what}: {result.name}\n"
    number = len(result.references)
    names = "names" if number == 1 else "name"
    if number == limit:
        yield f"  {result.verdict}; the first {counted(number, 'word')} that {names} it\n"
    else:
        yield f"  {result.verdict}; {counted(number, 'word')} {names} it\n"
    for hop in result.references:
        note = "" if hop.reachable else " (nothing reaches this)"
        if not hop.counts:
            note += " (bookkeeping: does not hold it)"
        yield f"  {_place(hop)}{note}\n"
        if hop.type is not None and hop.expression is not None:
            yield f"    {word(hop.expression)}\n"


def _chain_lines(chain: Sequence[Hop]) -> Iterator[str]:
    for depth, hop in enumerate(chain):
        yield from _hop_lines(hop, "  " * (depth + 1))
    if chain:
        yield f"{'  ' * (len(chain) + 1)}{chain[-1].leads_to}\n"


def _hop_lines(hop: Hop, indent: str) -> Iterator[str]:
    """Yield the lines of a word: the drgn expression for its target, and its location."""
    if hop.target_expression is not None:
        yield f"{indent}{word(hop.target_expression)}\n"
    yield f"{indent}{_place(hop)}"
    yield f" {word(hop.target_type)}\n" if hop.target_type is not None else "\n"


def _place(hop: Hop) -> str:
    at = f"{hop.address:#x}" if hop.address is not None else "a register"
    owner = f" of {hop.allocator}" if hop.allocator is not None and hop.kind == "page" else ""
    kind = "" if hop.name.startswith(hop.kind) else f"{hop.kind}: "
    return f"{kind}{word(hop.name)}{owner} [{at}] = {hop.value:#x} ({hop.by}) ->"
