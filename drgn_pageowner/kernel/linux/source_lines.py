# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the source lines and inlined functions of PCs, from DWARF."""

from __future__ import annotations

from collections.abc import Iterable

from drgn_pageowner.elf import Elf
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.model.stacks import SourceFrame

__all__ = ("source_frames",)


def source_frames(kernel: Kernel, pcs: Iterable[int]) -> dict[int, list[SourceFrame]]:
    """
    Get the functions and source lines at each PC, innermost inlined function first.

    :param pcs: Return addresses, as in the stack depot.
    :return: PC -> its frames; PCs that DWARF does not cover are left out.
    :raises PageOwnerError: if drgn has no stack traces for the architecture, or the symbols are a
        layout pack
    """
    _check_lines(kernel)
    result: dict[int, list[SourceFrame]] = {}
    for pc in sorted({int(pc) for pc in pcs}):
        frames = []
        # A return address is after the call; drgn looks up the line of the call.
        try:
            trace = kernel.prog.stack_trace_from_pcs([pc])
        except NotImplementedError as error:
            # drgn has no stack traces for i386, for example.
            raise PageOwnerError(f"drgn finds no source lines of this kernel: {error}") from error
        for frame in trace:
            try:
                filename, line, _ = frame.source()
            except LookupError:
                continue
            frames.append(SourceFrame(frame.name or "?", filename, line, frame.is_inline))
        if frames:
            result[pc] = frames
    return result


def _check_lines(kernel: Kernel) -> None:
    """
    Check that the symbols of the kernel have source lines.

    :raises PageOwnerError: if they are a layout pack
    """
    try:
        path = kernel.prog.main_module().debug_file_path
    except LookupError:
        return
    elf = Elf.read(path) if path is not None else None
    if elf is not None and elf.is_layout:
        raise PageOwnerError(
            f"{path} is a layout pack, which has no source lines: pass the vmlinux of this kernel "
            "with -s"
        )
