# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Code that is specific to architectures.

To add an architecture, write a file with a subclass of
:class:`~drgn_pageowner.kernel.linux.arch.base.Arch`, and register it in :data:`_KNOWN`.
"""

from __future__ import annotations

from drgn import Architecture

from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.arch.arm64 import Arm64
from drgn_pageowner.kernel.linux.arch.base import Arch
from drgn_pageowner.kernel.linux.arch.x86 import I386, X86_64

__all__ = ("arch_of",)

_KNOWN: dict[Architecture, Arch] = {
    Architecture.X86_64: X86_64(),
    Architecture.I386: I386(),
    Architecture.AARCH64: Arm64(),
}


@once
def arch_of(kernel: Kernel) -> Arch:
    """
    Get the facts about the architecture of *kernel*; defaults if the architecture has no file here.
    """
    platform = kernel.prog.platform
    assert platform is not None
    return _KNOWN.get(platform.arch) or Arch()
