# SPDX-License-Identifier: LGPL-2.1-or-later
"""What damage makes of reading a dump: what it raises, and walks that end whatever memory says."""

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
    # No such member, an architecture or a layout that drgn does not know.
    AttributeError,
    NotImplementedError,
    *GARBAGE,
)
"""What reading a damaged structure raises, of drgn and of Python."""

# No chain of parents (directories, control groups) is longer.
_LONGEST_CHAIN = 4096

T = TypeVar("T")


def in_words(error: BaseException) -> str:
    """One line for one of :data:`DAMAGE`, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, FaultError):
        return (
            f"the dump lacks memory that everything else hangs on ({text}): "
            "it is damaged or cut off"
        )
    # drgn raises just this, or a kind of its own, for a symbol, a type or a member; Python has
    # IndexError and KeyError.
    if type(error) is LookupError or isinstance(error, drgn.ObjectNotFoundError):
        return (
            f"the debugging symbols lack what is needed ({text}): pass the vmlinux with debug "
            "info of this very kernel with -s (if that is it, the dump is damaged or cut off)"
        )
    if isinstance(error, AttributeError) and "has no member" in text:
        return f"this kernel's layout is not known to this command ({text})"
    return nonsense(error)


class Problems:
    """What could not be found out, one line each."""

    def __init__(self, lines: list[str] | None = None) -> None:
        """:param lines: Where the lines go, in the order in which they are met."""
        self.lines: list[str] = [] if lines is None else lines

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def attempt(self, subject: str, question: Callable[[], T]) -> T | None:
        """
        The answer to *question*, or ``None`` and a line about *subject* if there is none.
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
            # drgn has no type of its own for what it cannot compute, say PAGE_OFFSET.
            if type(error) is not Exception:
                raise
            self.add(f"{subject}: not known ({error})")
        return None


def until_repeated(entries: Iterable[Object]) -> Iterator[Object]:
    """
    *entries*, which are pointers, as long as none comes a second time.

    :raises ValidationError: if one does: it would be a ring without an end
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
    The entries of a list; of one that is broken those that can be reached from either end.

    :param type_: Of the entries.
    :param head: ``struct list_head *``
    :param member: The ``struct list_head`` of an entry.
    :param subject: What is said to be broken.
    :param problems: Gets a line if it is.
    :return: ``type_ *`` each.
    """
    found: list[Object] = []
    try:
        for entry in until_repeated(list_for_each_entry(type_, head, member)):
            # What cannot be read is no entry.
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
    *first*, what *following* says comes next, and so on until that is ``NULL`` or itself.

    :raises ValidationError: if it does not end
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
    A string of the kernel's: ``char *`` or ``char []``.

    What is not UTF-8 is written ``\\xNN``: names are bytes, and a damaged one is any.
    """
    data: bytes = text.string_()
    return data[:longest].decode(errors="backslashreplace")
