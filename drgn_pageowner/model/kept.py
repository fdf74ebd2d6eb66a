# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cache results that several commands on the same dump need.

``triage``, for example, runs a dozen commands on one dump. In a ``with`` block of
:func:`keeping_results`, a function with the decorator :func:`kept` is called only once for the same
arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

__all__ = ("forget", "keeping_nothing", "keeping_results", "keeps_results", "kept", "kept_as")

P = ParamSpec("P")
T = TypeVar("T")

_RESULTS: ContextVar[dict[Hashable, tuple[Any, Any]] | None] = ContextVar("results", default=None)


@contextmanager
def keeping_results() -> Iterator[None]:
    """Cache results until the ``with`` block ends; if blocks are nested, until the outer one
    ends."""
    if _RESULTS.get() is not None:
        yield
        return
    token = _RESULTS.set({})
    try:
        yield
    finally:
        _RESULTS.reset(token)


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """Neither cache nor take results in the ``with`` block, for large ones that are used once."""
    token = _RESULTS.set(None)
    try:
        yield
    finally:
        _RESULTS.reset(token)


def forget(kind: type) -> None:
    """Drop all cached results of functions with an argument of type *kind*, and so the argument."""
    results = _RESULTS.get() or {}
    for key, (alive, _) in list(results.items()):
        args = alive[0] if isinstance(alive, tuple) and alive else ()
        if isinstance(args, tuple) and any(isinstance(value, kind) for value in args):
            del results[key]


def keeps_results() -> bool:
    """Return whether results are being kept, because several commands may ask for them."""
    return _RESULTS.get() is not None


def kept_as(key: Hashable, alive: Any, compute: Callable[[], T]) -> T:
    """
    Return the result of *compute*; in a block of :func:`keeping_results`, call it once per *key*.

    :param alive: Objects whose ``id()`` is part of *key*. They are stored with the result, so that
        no other object can get the same ``id()``.
    """
    results = _RESULTS.get()
    if results is None:
        return compute()
    if key not in results:
        results[key] = (alive, compute())
    result: T = results[key][1]
    return result


def kept(function: Callable[P, T]) -> Callable[P, T]:
    """
    Decorate a function so that its results are cached in a block of :func:`keeping_results`.

    Neither its arguments nor its result may be modified. Two arguments are the same if they are
    equal strings, integers or booleans, or if they are the same object.
    """

    @functools.wraps(function)
    def once(*args: P.args, **more: P.kwargs) -> T:
        key = (
            function.__module__,
            function.__qualname__,
            tuple(map(_identity, args)),
            tuple((name, _identity(value)) for name, value in sorted(more.items())),
        )
        return kept_as(key, (args, more), lambda: function(*args, **more))

    return once


def _identity(value: Any) -> Hashable:
    plain = value is None or isinstance(value, str | int | bool)
    return (type(value), value) if plain else id(value)
