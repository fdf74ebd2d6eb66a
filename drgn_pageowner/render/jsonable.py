# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert results of any analysis to JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
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
    yield _text(value, "\n", _FrameTexts()) + "\n"


class _FrameTexts(dict[Frame, str]):
    """JSON text of each frame. The same frames are in many stacks."""

    def __missing__(self, frame: Frame) -> str:
        result = self[frame] = _string(str(frame))
        return result


def _text(value: Any, newline: str, frames: _FrameTexts) -> str:
    """
    Return *value* as JSON.

    :param newline: Line feed and indentation of the line that the value begins in.
    """
    kind = type(value)
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain(value)
    if kind is Frame:
        return frames[value]
    if isinstance(value, bytes):
        return _string(comm_text(value))
    if isinstance(value, np.ndarray | np.generic):
        return _text(value.tolist(), newline, frames)
    inner = newline + " "
    if is_dataclass(value) or isinstance(value, Mapping):
        if isinstance(value, Mapping):
            items = [(str(key), item) for key, item in value.items()]
        else:
            items = [(field.name, getattr(value, field.name)) for field in fields(value)]
        texts = [f"{_string(key)}: {_text(item, inner, frames)}" for key, item in items]
        return "{" + inner + ("," + inner).join(texts) + newline + "}" if texts else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        kinds = set(map(type, value))
        if kinds == {Frame}:
            texts = [frames[frame] for frame in value]
        else:
            texts = [_text(item, inner, frames) for item in value]
        return "[" + inner + ("," + inner).join(texts) + newline + "]" if texts else "[]"
    # A subclass of a type that json knows, such as an enumeration.
    return json_document(value)


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
