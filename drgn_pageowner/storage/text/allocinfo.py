# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read /proc/allocinfo: bytes and calls of every allocation tag. Added in Linux kernel commit
22d407b164ff ("lib: add allocation tagging support for memory allocation profiling") (in v6.10).
"""

from __future__ import annotations

import re

import numpy as np

from drgn_pageowner.model.tags import Tag, Tags
from drgn_pageowner.storage.text.source import Damage, TextFile

__all__ = ("read_allocinfo",)

_LINE = re.compile(
    rb" *(-?\d{1,19}) +(\d{1,20}) ([^\n]+?):(\d{1,10})(?: \[([^\]\n]+)\])? func:([^\s]+)"
    rb"( accurate:no)? *"
)
_HEADER = re.compile(rb"allocinfo - version: (\S+)")
_MOST = (1 << 63) - 1


def read_allocinfo(file: TextFile) -> Tags:
    """Read the allocation tags and their counters from a text, in the order of the text."""
    damage, places, numbers, inaccurate = Damage(), list[Tag](), list[tuple[int, int]](), []
    version, line = "", 0
    for piece in file.pieces(b"", damage):
        for text in piece.split(b"\n")[:-1]:
            line += 1
            match = _LINE.fullmatch(text)
            header = _HEADER.fullmatch(text)
            if match is not None:
                size, calls, filename, lineno, module, function, flag = match.groups()
                places.append(
                    Tag(
                        filename.decode(errors="surrogateescape"),
                        int(lineno),
                        module.decode(errors="surrogateescape") if module is not None else None,
                        function.decode(errors="surrogateescape"),
                    )
                )
                numbers.append((min(int(size), _MOST), min(int(calls), _MOST)))
                inaccurate.append(flag is not None)
            elif header is not None:
                version = header[1].decode(errors="surrogateescape")
            elif text and not text.startswith(b"#"):
                damage.add(line)
    counts = np.array(numbers, np.int64).reshape(-1, 2)
    return Tags(
        places,
        counts[:, 0],
        counts[:, 1],
        np.array(inaccurate, bool),
        version,
        np.ones(len(places), bool),
        np.ones(len(places), bool),
        problems=damage.problems(),
    )
