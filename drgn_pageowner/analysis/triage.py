# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a dump shows at first sight: verdicts from the documents that the commands write as JSON.

A verdict names what a person should look at. Whether that is worth waking somebody is for the
thresholds here: what is normal on a healthy machine must not count as found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drgn_pageowner.model.heap import LOST

__all__ = ("Finding", "Verdicts", "find")

# Of memory, in percent: what one stack holds that nothing accounts for and that looks like a leak.
_HOG_PERCENT = 5
# PAGE_ALLOC_COSTLY_ORDER: up to this order the kernel takes success for granted.
_COSTLY_ORDER = 3
# sysctl_extfrag_threshold of mm/compaction.c: from here on a failure is for fragmentation.
_EXTFRAG_THRESHOLD = 500
# Zones smaller than this part of memory, in percent, tell nothing about the machine.
_ZONE_PERCENT = 1
_OWNERS = 5
_OUT_OF_MEMORY = ("Out of memory", "out of memory", "system is deadlocked on memory")

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    kind: str
    """``"leak"``, ``"hog"``, ``"out of memory"``, ``"watermark"`` or ``"fragmentation"``."""
    text: str
    """In one line."""


@dataclass(frozen=True)
class Verdicts:
    """What the parts of a triage say together; ``None`` is what a part did not answer."""

    findings: list[Finding]
    leaks: dict[str, Any] | None
    suspects: dict[str, Any] | None
    owners: list[dict[str, Any]] | None
    fragmentation: dict[str, Any] | None
    unreadable: list[str]
    """What of the dump could not be read or answered, a line each."""

    @property
    def answered(self) -> bool:
        """Whether it is known that nothing was found, if nothing was."""
        return self.leaks is not None and self.fragmentation is not None


def find(
    documents: Mapping[str, Document], problems: Sequence[str] = (), *, min_pages: int = 1
) -> Verdicts:
    """
    :param documents: Part -> what it wrote as JSON, of those that answered: ``info``,
        ``account``, ``allocators`` (``top --by allocator``), ``leaks``, ``suspects``
        (``leaks --suspects``) and ``frag`` (``frag all``).
    :param problems: What the parts said of the dump, a line each.
    :param min_pages: From how many leaked base pages on a leak counts as found.
    """
    found: list[Finding] = []
    _panic(documents.get("info"), found)
    memory = int(documents["account"]["present"]) if "account" in documents else None
    return Verdicts(
        findings=found,
        leaks=_leaks(documents.get("leaks"), min_pages, found),
        suspects=_suspects(documents.get("suspects"), memory, found),
        owners=_owners(documents.get("allocators")),
        fragmentation=_zones(documents.get("frag"), found),
        unreadable=list(dict.fromkeys(problems)),
    )


def _leaks(
    document: Document | None, min_pages: int, found: list[Finding]
) -> dict[str, Any] | None:
    if document is None:
        return None
    names = {result.label for result in LOST}
    lost = [group for group in document["groups"] if group["verdict"] in names]
    sure = [group for group in lost if group["confidence"] == "high"]
    pages = sum(group["pages"] for group in sure)
    allocations = sum(group["allocations"] for group in sure)
    first = max(sure or lost, key=lambda group: group["pages"], default=None)
    if first is not None and sure and pages >= min_pages:
        found.append(
            Finding(
                "leak",
                f"{pages:,} pages in {allocations:,} allocations are leaked, most by "
                f"{first['allocator']} ({first['pages']:,} pages)",
            )
        )
    return {
        "pages": document["lost_pages"],
        "allocations": document["lost_allocations"],
        "high_confidence_pages": pages,
        "high_confidence_allocations": allocations,
        "by_number_pages": document["by_number_pages"],
        "slab_objects": sum(leak["objects"] for leak in document.get("slab") or ()),
        "first": _only(first, "allocator", "handle", "verdict", "confidence", "pages",
                       "allocations", "stack"),
    }  # fmt: skip


def _suspects(
    document: Document | None, memory: int | None, found: list[Finding]
) -> dict[str, Any] | None:
    if document is None:
        return None
    suspects = document["suspects"]
    largest = max(suspects, key=lambda suspect: suspect["pages"], default=None)
    if largest is not None and memory and largest["pages"] * 100 >= _HOG_PERCENT * memory:
        share = 100 * largest["pages"] / memory
        found.append(
            Finding(
                "hog",
                f"{largest['allocator']} has {largest['pages']:,} pages, {share:.1f} % of memory, "
                f"and nothing accounts for them: {'; '.join(largest['reasons'])}",
            )
        )
    members = "allocator", "handle", "score", "reasons", "pages", "pages_per_hour", "stack"
    return {
        "stacks": len(suspects),
        "first": _only(suspects[0] if suspects else None, *members),
        "largest": _only(largest, *members),
    }


def _owners(document: Document | None) -> list[dict[str, Any]] | None:
    if document is None:
        return None
    return [
        {
            "allocator": group["key"]["allocator"],
            **{name: group[name] for name in ("pages", "bytes", "allocations")},
        }
        for group in document["groups"][:_OWNERS]
    ]


def _zones(document: Document | None, found: list[Finding]) -> dict[str, Any] | None:
    if document is None:
        return None
    zones = document["summary"]["zones"]
    indices = {
        (zone["node"], zone["zone"]): zone["extfrag_index"] for zone in document["extfrag"]["zones"]
    }
    members = "node", "zone", "managed", "free", "free_cma", "watermarks", "largest_free_run"
    rows = [
        {
            **{name: zone[name] for name in members},
            "costly_index": indices[zone["node"], zone["zone"]][_COSTLY_ORDER],
            "verdict": zone["verdict"],
        }
        for zone in zones
    ]
    managed = sum(row["managed"] for row in rows)
    large = [row for row in rows if row["managed"] * 100 >= _ZONE_PERCENT * managed > 0]
    if large and all(row["free"] - row["free_cma"] < row["watermarks"][0] for row in large):
        free = sum(row["free"] for row in large)
        found.append(
            Finding(
                "watermark",
                f"no zone has as much free memory as its min watermark: {free:,} pages are free",
            )
        )
    if large and all(row["costly_index"] >= _EXTFRAG_THRESHOLD for row in large):
        found.append(
            Finding(
                "fragmentation",
                f"no zone has a free block of order {_COSTLY_ORDER}, "
                "though there is free memory enough",
            )
        )
    return {"zones": rows}


def _panic(document: Document | None, found: list[Finding]) -> None:
    message = document["kernel"]["panic_message"] if document is not None else None
    if message is not None and any(text in message for text in _OUT_OF_MEMORY):
        found.append(Finding("out of memory", message))


def _only(document: Document | None, *members: str) -> dict[str, Any] | None:
    return None if document is None else {name: document[name] for name in members}
