# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert results of any analysis to JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np

from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.text import comm_text

__all__ = ("json_document", "json_text", "jsonable")


def jsonable(value: Any) -> Any:
    """
    Convert *value* for :mod:`json`: dataclasses as objects, frames as the kernel prints them,
    task names as text, arrays as lists.
    """
    if isinstance(value, Frame):
        return str(value)
    if isinstance(value, bytes):
        return comm_text(value)
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value


def json_text(value: Any) -> Iterator[str]:
    """
    Yield one JSON document.

    It is the text of ``json_document(jsonable(value), indent=1)``. The encoder of :mod:`json` that
    can indent is written in Python, and takes minutes for the stacks of a large machine.
    """
    texts = _Texts()
    yield from _pieces(value, "\n", texts, _STREAMED)
    yield "\n"


# Depth to which elements of sequences are written one after another, and how many at a time.
_STREAMED = 2
_TOGETHER = 1 << 10


class _Texts:
    """Texts that are the same in many places of a document."""

    def __init__(self) -> None:
        self.frames = _FrameTexts()
        self.compounds: dict[type, Callable[[Any, str, _Texts], str]] = {}
        """The function that converts values of a type, by type."""
        self._members: dict[tuple[type, str], list[tuple[str, str]]] = {}

    def members(self, kind: type, inner: str) -> list[tuple[str, str]]:
        """
        Return the name of each member of a dataclass, and the text in front of its value.

        :param inner: Line feed and indentation of the members.
        """
        found = self._members.get((kind, inner))
        if found is None:
            names = [field.name for field in fields(kind)]
            found = [
                (name, ("," if number else "{") + inner + _string(name) + ": ")
                for number, name in enumerate(names)
            ]
            self._members[kind, inner] = found
        return found


class _FrameTexts(dict[Frame, str]):
    """JSON text of each frame. The same frames are in many stacks."""

    def __missing__(self, frame: Frame) -> str:
        result = self[frame] = _string(str(frame))
        return result


def _pieces(value: Any, newline: str, texts: _Texts, depth: int) -> Iterator[str]:
    """Yield the text that :func:`_text` returns, in pieces if it has many elements."""
    inner = newline + " "
    if depth and isinstance(value, Mapping) and value:
        before = "{"
        for key, item in value.items():
            yield before + inner + _string(str(key)) + ": "
            yield from _pieces(item, inner, texts, depth - 1)
            before = ","
        yield newline + "}"
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | list | tuple):
        # Its elements may be computed only when they are asked for.
        yield from _elements(value, newline, texts)
    elif depth and isinstance(value, list) and len(value) > _TOGETHER:
        yield from _elements(value, newline, texts)
    else:
        yield _text(value, newline, texts)


def _elements(value: Sequence[Any], newline: str, texts: _Texts) -> Iterator[str]:
    inner = newline + " "
    separator = "," + inner
    before, waiting = "[" + inner, iter(value)
    while some := list(islice(waiting, _TOGETHER)):
        yield before + separator.join([_text(item, inner, texts) for item in some])
        before = separator
    yield "[]" if before != separator else newline + "]"


def _text(value: Any, newline: str, texts: _Texts) -> str:
    """
    Return *value* as JSON.

    :param newline: Line feed and indentation of the line that the value begins in.
    """
    kind = type(value)
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain(value)
    if kind is Frame:
        return texts.frames[value]
    compound = texts.compounds.get(kind)
    if compound is None:
        compound = texts.compounds[kind] = _compound(value)
    return compound(value, newline, texts)


def _compound(value: Any) -> Callable[[Any, str, _Texts], str]:
    """Return the function that converts values of the type of *value*."""
    if isinstance(value, bytes):
        return lambda value, newline, texts: _string(comm_text(value))
    if isinstance(value, np.ndarray | np.generic):
        return lambda value, newline, texts: _text(value.tolist(), newline, texts)
    if isinstance(value, Mapping):
        return _mapping
    if is_dataclass(value):
        return _members
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _sequence
    # A subclass of a type that json knows, such as an enumeration.
    return lambda value, newline, texts: json_document(value)


def _mapping(value: Mapping[Any, Any], newline: str, texts: _Texts) -> str:
    inner = newline + " "
    items = [f"{_string(str(key))}: {_text(item, inner, texts)}" for key, item in value.items()]
    return "{" + inner + ("," + inner).join(items) + newline + "}" if items else "{}"


def _members(value: Any, newline: str, texts: _Texts) -> str:
    inner = newline + " "
    parts = []
    for name, before in texts.members(type(value), inner):
        item = getattr(value, name)
        plain = _PLAIN.get(type(item))
        parts.append(before)
        parts.append(plain(item) if plain is not None else _text(item, inner, texts))
    return "".join(parts) + newline + "}" if parts else "{}"


def _sequence(value: Sequence[Any], newline: str, texts: _Texts) -> str:
    if not value:
        return "[]"
    inner = newline + " "
    if set(map(type, value)) == {Frame}:
        items = [texts.frames[frame] for frame in value]
    else:
        items = [_text(item, inner, texts) for item in value]
    return "[" + inner + ("," + inner).join(items) + newline + "]"


def _string(value: str) -> str:
    text = encode_basestring_ascii(value)
    return encode_basestring_ascii(without_surrogates(value)) if "\\udc" in text else text


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else "null"


def _truth(value: bool) -> str:
    return "true" if value else "false"


_PLAIN: dict[type, Callable[[Any], str]] = {
    str: _string, int: repr, float: _float, bool: _truth, type(None): lambda _: "null",
}  # fmt: skip


def json_document(value: Any, **options: Any) -> str:
    """
    Return *value* as JSON that every parser accepts: without NaN, infinities and lone surrogates.

    NaN and infinities become ``null``, and bytes that are not UTF-8 become the text ``\\xNN``.

    :param value: A value of types that :mod:`json` knows.
    :param options: Options of :func:`json.dumps`.
    """
    try:
        text = json.dumps(value, allow_nan=False, **options)
    except ValueError:
        # A number is NaN or infinite.
        return json.dumps(_valid(value), allow_nan=False, **options)
    # surrogateescape turns bytes into \udc80 to \udcff. The second half of a surrogate pair may
    # look the same.
    return json.dumps(_valid(value), **options) if "\\udc" in text else text


def _valid(value: Any) -> Any:
    """Return *value* with NaN, infinities and lone surrogates replaced, as :func:`json_document`
    says."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(item) for item in value]
    return value
