# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert dataclasses and named tuples to JSON values, and back by their type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from drgn_pageowner.escape import without_surrogates

__all__ = ("as_json", "restore")


def as_json(value: Any) -> Any:
    """Convert *value* to lists, dictionaries, strings and numbers, which :mod:`json` accepts."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: as_json(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, str):
        # JSON must not contain lone surrogates.
        return without_surrogates(value)
    return value.item() if isinstance(value, np.generic) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def restore(hint: Any, value: Any) -> Any:
    """
    Convert a JSON value back to the object that :func:`as_json` converted.

    :param hint: Type of the object. Members of a class that are missing from *value* get their
        defaults, and unknown members of *value* are ignored.
    :raises TypeError: if *value* does not match *hint*
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return restore(next(kind for kind in arguments if kind is not types.NoneType), value)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        _expect(list, value)
        if len(kinds) != len(value):
            raise TypeError(f"{len(value)} items instead of {len(kinds)}")
        return tuple(map(restore, kinds, value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(dict, value)
        return {_key(arguments[0], key): restore(arguments[1], v) for key, v in value.items()}
    if origin is not None:
        _expect(list, value)
        items = [restore(arguments[0], item) for item in value]
        return items if origin is list else tuple(items)
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        _expect(dict, value)
        known = _hints(hint)
        return hint(**{k: restore(known[k], v) for k, v in value.items() if k in known})
    if hint is float and type(value) is int:
        return float(value)
    _expect(hint, value)
    return value


def _expect(kind: type, value: Any) -> None:
    # A bool is an int, too.
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")


def _key(kind: type, text: str) -> Any:
    """Convert the key of a mapping from a string, the only type of key in JSON."""
    return text if kind is str else kind(text)
