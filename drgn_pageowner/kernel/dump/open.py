# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a dump or a running kernel with drgn's own program options."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import drgn
from drgn import Program, ProgramFlags

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.flattened import rearranged
from drgn_pageowner.kernel.dump.i386 import read_through_page_tables
from drgn_pageowner.kernel.dump.identify import not_a_dump
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.symbols import check_vmcoreinfo, load_symbols
from drgn_pageowner.kernel.dump.truncated import check_headers, keep_to_the_file

__all__ = ("ProgramOptions", "open_beside", "open_program")


@dataclass(frozen=True)
class ProgramOptions:
    """Options that choose the program to open and its symbols, named as drgn's own options."""

    core: str | None = None
    """Path of a vmcore. If neither this nor :attr:`qemu` is given, the running kernel is opened."""
    qemu: str | None = None
    """Address of the QMP monitor of a QEMU guest."""
    symbols: Sequence[str] = ()
    extra_symbols: Sequence[str] = ()
    default_symbols: Mapping[str, bool] | None = None
    """Keyword arguments for :meth:`drgn.Program.load_debug_info`, or ``None`` for the default of
    this program."""
    source: bool = False
    """Whether to load the DWARF of modules, for source lines."""
    try_symbols_by: Sequence[str] = ()
    no_symbols_by: Sequence[str] = ()
    debug_directory: Sequence[str] = ()
    kernel_directory: Sequence[str] = ()
    architecture: str | None = None
    vmcoreinfo: str | None = None
    """Path of a file with the VMCOREINFO, for a dump that does not contain it."""
    log_level: str = "error"
    """Level of drgn's log messages to print, such as "warning", or "none"."""
    jobs: int = 1
    """Maximum number of processes that read the dump at the same time."""
    for_others: bool = False
    """Whether symbol files that do not match the dump cause no warning, because they may belong to
    other dumps that are opened with the same options."""


def open_program(options: ProgramOptions) -> Program:
    """
    Open the dump, guest or running kernel that *options* choose, and load its symbols.

    :raises PageOwnerError: if it is not a Linux kernel, cannot be read, or its symbols are missing
    """
    _set_log_level(options.log_level)
    prog = _create(options)
    path = _attach(prog, options)
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise PageOwnerError(_no_vmcoreinfo(options.core or "the guest"))
    if options.core is not None:
        Kernel.of(prog).jobs = options.jobs
        Kernel.of(prog).contents = keep_to_the_file(prog, path, options.core)
    read_through_page_tables(prog)
    load_symbols(prog, options)
    if options.vmcoreinfo is not None:
        check_vmcoreinfo(prog, options.vmcoreinfo)
    return prog


def open_beside(prog: Program, path: str) -> Program:
    """
    Open a second dump, to be used beside *prog*.

    The symbols of *prog* are used if they match the second dump, otherwise those that drgn finds.

    :param path: Path of the second dump.
    :raises PageOwnerError: if it is not a Linux kernel, cannot be read, or its symbols are missing
    """
    symbols = prog.main_module().debug_file_path
    return open_program(
        ProgramOptions(
            core=path,
            symbols=(symbols,) if symbols is not None else (),
            log_level="none",
            jobs=Kernel.of(prog).jobs,
            for_others=True,
        )
    )


def _set_log_level(level: str) -> None:
    # drgn's messages go to stderr unchanged, in addition to our one line about the error.
    logging.basicConfig(format="drgn: %(message)s")
    logging.getLogger("drgn").setLevel(logging.CRITICAL + 1 if level == "none" else level.upper())


def _create(options: ProgramOptions) -> Program:
    platform = None
    if options.architecture:
        platform = drgn.Platform(_architecture(options.architecture))
    elif options.core is not None and _is_wide_i386(options.core):
        platform = drgn.Platform(drgn.Architecture.I386)
    if options.vmcoreinfo is None:
        return Program(platform)
    try:
        data = Path(options.vmcoreinfo).read_bytes()
    except OSError as error:
        raise PageOwnerError(f"cannot read {options.vmcoreinfo}: {error.strerror}") from error
    try:
        return Program(platform, vmcoreinfo=data)
    except Exception as error:
        raise PageOwnerError(
            f"{options.vmcoreinfo} is not a VMCOREINFO ({error}): it is text that begins with "
            "OSRELEASE=, as makedumpfile -g writes it, or /proc/kcore has it as a note"
        ) from error


def _is_wide_i386(path: str) -> bool:
    """
    Return whether a dump is an ELF64 file of an i386 kernel.

    QEMU writes such a file if its CPU could run 64-bit code. By default, drgn would assume that the
    kernel's words have 64 bits.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(20)
    except OSError:
        # drgn reports the error when it opens the file.
        return False
    # ELFCLASS64, and e_machine EM_386.
    return header.startswith(b"\x7fELF\x02") and header[18:20] == b"\x03\0"


def _architecture(name: str) -> drgn.Architecture:
    try:
        return drgn.Architecture[name.upper()]
    except KeyError:
        known = ", ".join(architecture.name.lower() for architecture in drgn.Architecture)
        raise UsageError(f"unknown architecture {name!r}: known are {known}") from None


def _attach(prog: Program, options: ProgramOptions) -> str:
    """
    Make *prog* use the dump, guest or running kernel that *options* choose.

    :return: Path of the dump file that drgn reads; empty for a guest or the running kernel.
    """
    path = ""
    if options.core is not None:
        name = path = options.core
        other = not_a_dump(name)
        if other is not None:
            raise PageOwnerError(other)
        check_headers(name)
        file = rearranged(name)
        if file is not None:
            path = f"/proc/self/fd/{file.fileno()}"
            # Keep the file open as long as the program exists.
            prog.cache["drgn_pageowner.rearranged"] = file
        attach = partial(prog.set_core_dump, path)
    elif options.qemu is not None:
        name = options.qemu
        if not hasattr(prog, "set_qemu_qmp"):
            raise PageOwnerError(
                "this drgn cannot read a QEMU guest: --qemu needs drgn 0.1 or newer"
            )
        attach = partial(prog.set_qemu_qmp, name)
    else:
        name, attach = "the running kernel", partial(prog.set_kernel)
    try:
        attach()
    except OSError as error:
        raise PageOwnerError(
            f"cannot read {name}: {error.strerror or error}"
            + (_refused(error) if options.core or options.qemu else _no_kcore(error))
        ) from error
    except Exception as error:
        # drgn raises ValueError for unknown formats, and its own exceptions for errors of
        # libkdumpfile or libelf.
        if "vmcoreinfo" in str(error):
            raise PageOwnerError(_no_vmcoreinfo(name)) from error
        raise PageOwnerError(
            f"{name} cannot be opened as a dump ({error}): pass a vmcore in ELF or kdump format"
        ) from error
    return path


def _no_vmcoreinfo(name: str) -> str:
    return (
        f"{name} is not a dump of a Linux kernel, or has no VMCOREINFO: pass that of the kernel "
        "and boot that was dumped with --vmcoreinfo"
    )


def _refused(error: OSError) -> str:
    return "; run as root" if isinstance(error, PermissionError) else ""


def _no_kcore(error: OSError) -> str:
    """Return advice for the case that ``/proc/kcore`` cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return (
            " (/proc/kcore): it was built without CONFIG_PROC_KCORE, or this is a container; "
            "pass a dump with -c"
        )
    if not isinstance(error, PermissionError):
        return ""
    if os.geteuid():
        return "; run as root, or pass a dump with -c"
    # Confidentiality mode includes LOCKDOWN_KCORE of include/linux/security.h.
    if "[confidentiality]" in _text_of(Path("/sys/kernel/security/lockdown")):
        return (
            ": the kernel is locked down, not even root may read its memory; boot with "
            "lockdown=integrity or less, or pass a dump with -c"
        )
    return ", though root: CAP_SYS_RAWIO is missing (a container?); pass a dump with -c"


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
