# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tolerate damaged dumps: the exceptions that damage causes, and list walks that terminate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import drgn
from drgn import FaultError, Object
from drgn.helpers import ValidationError
from drgn.helpers.linux.list import list_for_each_entry, list_for_each_entry_reverse

from drgn_pageowner.errors import one_line

__all__ = (
    "DAMAGE",
    "Problems",
    "chain",
    "every_entry",
    "in_words",
    "is_damage",
    "name_of",
    "suppress_damage",
    "unless_mistaken",
    "until_repeated",
)

DAMAGE = (
    FaultError,
    drgn.ObjectAbsentError,
    drgn.OutOfBoundsError,
    drgn.BadDataError if hasattr(drgn, "BadDataError") else FaultError,
    ValidationError,
    # A missing member, or an architecture or layout that drgn does not know.
    AttributeError,
    NotImplementedError,
    # A missing index or key; a number that is too large, negative or zero where that is impossible;
    # a name that cannot be decoded.
    LookupError,
    ValueError,
    ArithmeticError,
)
"""
Exceptions of drgn and Python that implausible values in memory can cause. Bugs in this program can
cause some of these as well; :func:`is_damage` distinguishes the two.
"""

# Maximum length of a chain of parents, such as directories or control groups.
_LONGEST_CHAIN = 4096

T = TypeVar("T")


def is_damage(error: BaseException) -> bool:
    """
    Return whether *error* may be due to the contents of a dump, rather than to a bug in this
    program.

    drgn raises :exc:`LookupError` for a missing symbol, type or member of a type, and
    :exc:`AttributeError` for a missing member of an object. Any other missing dictionary key or
    attribute is a bug in this program.
    """
    if isinstance(error, drgn.ObjectNotFoundError):
        return True
    if isinstance(error, KeyError):
        return False
    if isinstance(error, AttributeError):
        return isinstance(error.obj, Object)
    return isinstance(error, DAMAGE)


def unless_mistaken(error: BaseException) -> None:
    """
    Raise *error* again if it is due to a bug in this program rather than to a damaged dump.

    Call it in an ``except`` clause for :data:`DAMAGE`. Other exceptions that the clause catches are
    not raised again.
    """
    if isinstance(error, DAMAGE) and not is_damage(error):
        raise error


@contextlib.contextmanager
def suppress_damage() -> Iterator[None]:
    """Ignore exceptions due to damage in a ``with`` block whose result is optional."""
    try:
        yield
    except DAMAGE as error:
        unless_mistaken(error)


def in_words(error: BaseException) -> str:
    """Describe an exception of :data:`DAMAGE` in one line that tells the user what to do."""
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
    if isinstance(error, AttributeError):
        return f"this kernel's layout is not known to this command ({text})"
    return f"the dump is damaged: what it says makes no sense ({one_line(error)})"


class Problems:
    """Accumulates messages: one line for each fact that could not be determined."""

    def __init__(self, lines: list[str] | None = None) -> None:
        """:param lines: List that the messages are appended to; a new list by default."""
        self.lines: list[str] = [] if lines is None else lines

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def attempt(self, subject: str, question: Callable[[], T]) -> T | None:
        """
        Call *question*, and add a message if it fails because of damage.

        :param subject: Name of the fact that *question* determines, for the message.
        :return: The result of *question*; ``None`` if it failed because of damage.
        """
        try:
            return question()
        except FaultError as fault:
            self.add(f"{subject}: not in the dump ({fault})")
        except Exception as error:
            # drgn raises plain exceptions for values that it cannot compute, such as PAGE_OFFSET.
            if type(error) is Exception:
                self.add(f"{subject}: not known ({error})")
            elif not is_damage(error):
                raise
            elif isinstance(error, LookupError | AttributeError | NotImplementedError):
                self.add(f"{subject}: not known how to find it in this kernel ({error})")
            else:
                self.add(f"{subject}: damaged ({one_line(error)})")
        return None


def until_repeated(entries: Iterable[Object]) -> Iterator[Object]:
    """
    Yield the pointers in *entries*, and check that no pointer occurs twice.

    :raises ValidationError: if a pointer occurs twice, because the walk would never end
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
    Get the entries of a list; if the list is broken, those that can be reached from either end.

    :param type_: Name of the C type of an entry.
    :param head: ``struct list_head *``
    :param member: Name of the ``struct list_head`` in an entry.
    :param subject: Name of the list, for the message in *problems*.
    :param problems: List of messages, to which a line is added if the list is broken.
    :return: Pointers to the entries: ``type_ *``.
    """
    found: list[Object] = []
    try:
        for entry in until_repeated(list_for_each_entry(type_, head, member)):
            # Leave out an entry that cannot be read.
            entry.member_(member).read_()
            found.append(entry)
    except DAMAGE as error:
        unless_mistaken(error)
        known = {int(entry) for entry in found}
        behind: list[Object] = []
        try:
            for entry in until_repeated(list_for_each_entry_reverse(type_, head, member)):
                if int(entry) in known:
                    break
                entry.member_(member).read_()
                behind.append(entry)
        except DAMAGE as second:
            unless_mistaken(second)
        found += reversed(behind)
        problems.append(
            f"{subject} is broken ({error}): {len(found)} entries can be reached from its ends"
        )
    return found


def chain(first: Object, following: Callable[[Object], Object]) -> Iterator[Object]:
    """
    Yield *first*, ``following(first)``, and so on, up to ``NULL`` or an entry that follows itself.

    :param first: Pointer to the first entry.
    :param following: Function that returns the entry after a given entry, such as its parent.
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
    Decode a C string in the kernel's memory.

    Bytes that are not UTF-8 become ``\\xNN``, because names in the kernel may be arbitrary bytes.

    :param text: ``char *`` or ``char []``.
    :param longest: Maximum number of bytes to decode.
    """
    data: bytes = text.string_()
    return data[:longest].decode(errors="backslashreplace")
