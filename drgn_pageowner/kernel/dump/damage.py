# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tolerate damaged dumps: the exceptions to expect, and list walks that terminate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import drgn
from drgn import FaultError, Object
from drgn.helpers import ValidationError
from drgn.helpers.linux.list import list_for_each_entry, list_for_each_entry_reverse

from drgn_pageowner.errors import GARBAGE, nonsense

__all__ = ("DAMAGE", "Problems", "chain", "every_entry", "in_words", "name_of", "until_repeated")

DAMAGE = (
    FaultError,
    drgn.ObjectAbsentError,
    drgn.OutOfBoundsError,
    drgn.BadDataError if hasattr(drgn, "BadDataError") else FaultError,
    ValidationError,
    # A missing member, or an architecture or layout that drgn does not know.
    AttributeError,
    NotImplementedError,
    *GARBAGE,
)
"""Exceptions that reading a damaged structure raises: drgn's and Python's."""

# Chains of parents (directories, control groups) are shorter than this.
_LONGEST_CHAIN = 4096

T = TypeVar("T")


def in_words(error: BaseException) -> str:
    """Describe an exception of :data:`DAMAGE` in one line that says what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, FaultError):
        return (
            f"the dump lacks memory that everything else hangs on ({text}): "
            "it is damaged or cut off"
        )
    # For a missing symbol, type or member, drgn raises LookupError itself or a subclass of its own;
    # Python raises IndexError and KeyError.
    if type(error) is LookupError or isinstance(error, drgn.ObjectNotFoundError):
        return (
            f"the debugging symbols lack what is needed ({text}): pass the vmlinux with debug "
            "info of this very kernel with -s (if that is it, the dump is damaged or cut off)"
        )
    if isinstance(error, AttributeError) and "has no member" in text:
        return f"this kernel's layout is not known to this command ({text})"
    return nonsense(error)


class Problems:
    """Lines about things that could not be found out."""

    def __init__(self, lines: list[str] | None = None) -> None:
        """:param lines: List that lines are appended to."""
        self.lines: list[str] = [] if lines is None else lines

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def attempt(self, subject: str, question: Callable[[], T]) -> T | None:
        """
        Return the answer to *question*.

        :return: ``None`` if it raises; then there is a line about *subject*.
        """
        try:
            return question()
        except FaultError as fault:
            self.add(f"{subject}: not in the dump ({fault})")
        except (LookupError, AttributeError, NotImplementedError) as error:
            self.add(f"{subject}: not known how to find it in this kernel ({error})")
        except DAMAGE as error:
            self.add(f"{subject}: damaged ({type(error).__name__}: {error})")
        except Exception as error:
            # drgn raises plain Exception for values that it cannot compute, such as PAGE_OFFSET.
            if type(error) is not Exception:
                raise
            self.add(f"{subject}: not known ({error})")
        return None


def until_repeated(entries: Iterable[Object]) -> Iterator[Object]:
    """
    Yield *entries*, which are pointers, until one comes a second time.

    :raises ValidationError: if one does, because the walk would never end
    """
    seen: set[int] = set()
    for entry in entries:
        address = int(entry)
        if address in seen:
            raise ValidationError(f"it comes back to {address:#x}")
        seen.add(address)
        yield entry


def every_entry(
    type_: str, head: Object, member: str, subject: str, problems: list[str]
) -> list[Object]:
    """
    Get the entries of a list; if it is broken, those that can be reached from either end.

    :param type_: Type of an entry.
    :param head: ``struct list_head *``
    :param member: Name of the ``struct list_head`` in an entry.
    :param subject: Name of the list, for *problems*.
    :param problems: Gets a line if the list is broken.
    :return: ``type_ *`` each.
    """
    found: list[Object] = []
    try:
        for entry in until_repeated(list_for_each_entry(type_, head, member)):
            # An entry that cannot be read does not count.
            entry.member_(member).read_()
            found.append(entry)
    except DAMAGE as error:
        known = {int(entry) for entry in found}
        behind: list[Object] = []
        try:
            for entry in until_repeated(list_for_each_entry_reverse(type_, head, member)):
                if int(entry) in known:
                    break
                entry.member_(member).read_()
                behind.append(entry)
        except DAMAGE:
            pass
        found += reversed(behind)
        problems.append(
            f"{subject} is broken ({error}): {len(found)} entries can be reached from its ends"
        )
    return found


def chain(first: Object, following: Callable[[Object], Object]) -> Iterator[Object]:
    """
    Yield *first*, then ``following(first)``, and so on up to ``NULL`` or an entry that follows
    itself.

    :raises ValidationError: if the chain does not end
    """
    entry = first
    for _ in range(_LONGEST_CHAIN):
        if not entry:
            return
        yield entry
        after = following(entry).read_()
        if after == entry:
            return
        entry = after
    raise ValidationError(f"no end of what begins at {int(first):#x}")


def name_of(text: Object, longest: int = 4096) -> str:
    """
    Decode a string: ``char *`` or ``char []``.

    Bytes that are not UTF-8 are written ``\\xNN``: kernel names are bytes, and damaged ones may
    hold anything.
    """
    data: bytes = text.string_()
    return data[:longest].decode(errors="backslashreplace")
