# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a dump or a running kernel with drgn's own program options."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import drgn
from drgn import Program, ProgramFlags

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.flattened import rearranged
from drgn_pageowner.kernel.dump.i386 import read_through_page_tables
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.truncated import check_headers, keep_to_the_file
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo

__all__ = ("ProgramOptions", "open_beside", "open_program")

_OPTIONS = ("module-name", "build-id", "debug-link", "procfs", "embedded-vdso", "reuse")


@dataclass(frozen=True)
class ProgramOptions:
    """The program to open and the places of its symbols, with the names of drgn's own options."""

    core: str | None = None
    """Path of a vmcore; without it and :attr:`qemu`, the running kernel."""
    qemu: str | None = None
    """Address of the QMP monitor of a QEMU guest."""
    symbols: Sequence[str] = ()
    extra_symbols: Sequence[str] = ()
    default_symbols: Mapping[str, bool] | None = None
    """Keyword arguments for :meth:`drgn.Program.load_debug_info`, or ``None`` for our default."""
    source: bool = False
    """Whether to load the DWARF of modules, for source lines."""
    try_symbols_by: Sequence[str] = ()
    no_symbols_by: Sequence[str] = ()
    debug_directory: Sequence[str] = ()
    kernel_directory: Sequence[str] = ()
    architecture: str | None = None
    vmcoreinfo: str | None = None
    """Path of a file with the VMCOREINFO of a dump that lacks it."""
    log_level: str = "error"


def open_program(options: ProgramOptions) -> Program:
    """
    Open the program that *options* choose and load its symbols.

    :raises PageOwnerError: if it is no kernel, cannot be read, or its symbols are missing
    """
    _set_log_level(options.log_level)
    prog = _create(options)
    path = _attach(prog, options)
    if options.core is not None:
        Kernel.of(prog).contents = keep_to_the_file(prog, path, options.core)
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise PageOwnerError(
            f"{options.core} is not a dump of a Linux kernel (it has no VMCOREINFO): "
            "pass a vmcore, or its VMCOREINFO with --vmcoreinfo"
        )
    read_through_page_tables(prog)
    _load_symbols(prog, options)
    return prog


def open_beside(prog: Program, path: str) -> Program:
    """
    Open the dump *path*, with the symbols of *prog* if they match, and those that drgn finds.

    :raises PageOwnerError: as :func:`open_program`
    """
    symbols = prog.main_module().debug_file_path
    return open_program(
        ProgramOptions(
            core=path, symbols=(symbols,) if symbols is not None else (), log_level="none"
        )
    )


def _set_log_level(level: str) -> None:
    # drgn's messages go to stderr unchanged, besides our one line about the error.
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
        return Program(platform, vmcoreinfo=Path(options.vmcoreinfo).read_bytes())
    except OSError as error:
        raise PageOwnerError(f"cannot read {options.vmcoreinfo}: {error.strerror}") from error


def _is_wide_i386(path: str) -> bool:
    """
    Return whether a dump is ELF64 but of an i386 kernel.

    QEMU writes such a dump if its CPU could run 64-bit code; drgn would assume 64-bit words.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(20)
    except OSError:
        # Opening it will report the error.
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
    """Open what *options* choose; return the path of the file that drgn reads."""
    path = ""
    if options.core is not None:
        name = path = options.core
        check_headers(name)
        file = rearranged(name)
        if file is not None:
            path = f"/proc/self/fd/{file.fileno()}"
            # Open for as long as the program is.
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
        raise PageOwnerError(
            f"{name} cannot be opened as a dump ({error}): pass a vmcore in ELF or kdump format"
        ) from error
    return path


def _refused(error: OSError) -> str:
    return "; run as root" if isinstance(error, PermissionError) else ""


def _no_kcore(error: OSError) -> str:
    """Get advice for when ``/proc/kcore`` cannot be opened."""
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


def _load_symbols(prog: Program, options: ProgramOptions) -> None:
    for path in (*options.symbols, *options.extra_symbols):
        if not os.path.isfile(path):
            raise PageOwnerError(f"no such file: {path}; -s takes the vmlinux of this kernel")
    _choose_finders(prog, options)
    _add_directories(prog, options)
    default = options.default_symbols
    if default is None:
        # The symbols of modules are in the dump; their DWARF is only needed for source lines.
        default = {"default": options.source, "main": True}
    try:
        prog.load_debug_info(options.symbols or None, **default)
    except drgn.MissingDebugInfoError as error:
        if not _has_kernel_symbols(prog):
            raise PageOwnerError(_missing_symbols(prog, options)) from error
        logging.getLogger("drgn").info("%s", error)
    except Exception as error:
        raise PageOwnerError(f"cannot load the debugging symbols: {error}") from error
    for path in options.extra_symbols:
        path = os.path.abspath(path)
        prog.extra_module(path, create=True).try_file(path)
    if not _has_kernel_symbols(prog):
        raise PageOwnerError(_missing_symbols(prog, options))


def _add_directories(prog: Program, options: ProgramOptions) -> None:
    search = prog.debug_info_options
    search.directories = (*options.debug_directory, *search.directories)
    search.kernel_directories = (*options.kernel_directory, *search.kernel_directories)


def _choose_finders(prog: Program, options: ProgramOptions) -> None:
    for option, on in (("try_symbols_by", True), ("no_symbols_by", False)):
        for method in ",".join(getattr(options, option)).split(","):
            if not method:
                continue
            name, _, value = method.partition("=")
            finders = list(prog.enabled_debug_info_finders())
            if name in _OPTIONS:
                setattr(prog.debug_info_options, "try_" + name.replace("-", "_"), on)
            elif name == "kmod":
                kmod = (value or "depmod-or-walk") if on else "none"
                prog.debug_info_options.try_kmod = drgn.KmodSearchMethod[
                    kmod.upper().replace("-", "_")
                ]
            elif name in prog.registered_debug_info_finders():
                chosen = [finder for finder in finders if finder != name] + [name] * on
                prog.set_enabled_debug_info_finders(chosen)
            else:
                known = ", ".join((*prog.registered_debug_info_finders(), "kmod", *_OPTIONS))
                raise UsageError(f"unknown method {name!r} to find symbols by: known are {known}")


def _has_kernel_symbols(prog: Program) -> bool:
    try:
        prog.type("struct page")
    except LookupError:
        return False
    return True


def _missing_symbols(prog: Program, options: ProgramOptions) -> str:
    try:
        module = prog.main_module()
        wanted = module.build_id.hex() if module.build_id else "unknown"
    except LookupError:
        wanted = "unknown"
    release = vmcoreinfo(prog).text("OSRELEASE") or "of the dump"
    for path in options.symbols:
        found = _elf_build_id(path)
        if found is None:
            return f"{path} is no ELF file with a build ID: pass the vmlinux of {release} with -s"
        if wanted == "unknown":
            # Before Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id string to
            # VMCOREINFO") (in v5.9) drgn compares the version instead.
            return (
                f"{path} is not the vmlinux of {release}, or has no debugging symbols (DWARF): "
                "this dump has no build ID, so drgn goes by the Linux version; pass the vmlinux "
                "of that kernel with -s"
            )
        if found != wanted:
            return (
                f"{path} is of another kernel: its build ID is {found}, the dump's kernel "
                f"{release} has {wanted}; pass that kernel's vmlinux with -s"
            )
        return f"{path} has no debugging symbols (DWARF): pass the vmlinux with them with -s"
    return (
        f"no debugging symbols for the kernel {release} (build ID {wanted}): "
        "pass its vmlinux with -s"
    )


def _elf_build_id(path: str) -> str | None:
    """Get the GNU build ID of an ELF file, from its notes."""
    try:
        with open(path, "rb") as file:
            return _build_id_of(file.read())
    except (OSError, struct.error, IndexError):
        return None


def _build_id_of(data: bytes) -> str | None:
    if data[:4] != b"\x7fELF" or data[4] != 2:
        return None
    order = "<" if data[5] == 1 else ">"
    (section_offset,) = struct.unpack_from(order + "Q", data, 0x28)
    size, number = struct.unpack_from(order + "HH", data, 0x3A)
    for index in range(number):
        fields = struct.unpack_from(order + "IIQQQQ", data, section_offset + index * size)
        if fields[1] != 7:  # SHT_NOTE
            continue
        position, end = fields[4], fields[4] + fields[5]
        while position + 12 <= end:
            name, length, kind = struct.unpack_from(order + "III", data, position)
            owner = data[position + 12 : position + 12 + name]
            start = position + 12 + (name + 3 & ~3)
            if kind == 3 and owner == b"GNU\0":  # NT_GNU_BUILD_ID
                return data[start : start + length].hex()
            position = start + (length + 3 & ~3)
    return None
