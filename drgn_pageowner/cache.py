# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory of files that are cached between runs: symbols and layout packs."""

from __future__ import annotations

import os

__all__ = ("cache_directory", "layout_path")


def cache_directory() -> str:
    """Return the directory of files cached between runs: ``$XDG_CACHE_HOME/drgn-pageowner``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "drgn-pageowner")


def layout_path(build_id: str, cache: str | None = None) -> str:
    """
    Return the path of a kernel's layout pack in the cache; the file may not exist.

    :param build_id: ``BUILD-ID`` of VMCOREINFO, in hex.
    :param cache: Directory to use instead of :func:`cache_directory`.
    """
    return os.path.join(cache or cache_directory(), "layouts", f"{build_id}.debug")
