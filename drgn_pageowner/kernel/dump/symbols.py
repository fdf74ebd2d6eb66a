# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load the debugging symbols of a program, and explain failures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import drgn
from drgn import FaultError, Program

from drgn_pageowner.cache import layout_path
from drgn_pageowner.elf import Elf
from drgn_pageowner.errors import PageOwnerError, UsageError, one_line
from drgn_pageowner.kernel.dump.identify import not_symbols
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo
from drgn_pageowner.progress import warn

if TYPE_CHECKING:
    from drgn_pageowner.kernel.dump.open import ProgramOptions

__all__ = ("check_vmcoreinfo", "load_symbols")

_OPTIONS = ("module-name", "build-id", "debug-link", "procfs", "embedded-vdso", "reuse")
_DEBUG_DIRECTORY = "/usr/lib/debug"


def load_symbols(prog: Program, options: ProgramOptions) -> None:
    """
    Load the debugging symbols of *prog*, from the files that *options* name or that drgn finds.

    :raises PageOwnerError: if no symbols for this kernel are found
    """
    release = vmcoreinfo(prog).text("OSRELEASE") or "of the dump"
    given = [_usable(path, release) for path in options.symbols]
    for path in options.extra_symbols:
        _usable(path, release)
    _choose_finders(prog, options)
    _add_directories(prog, options)
    default = options.default_symbols
    if default is None:
        # The symbol tables of modules are in the dump itself; the DWARF of modules is needed only
        # for source lines.
        default = {"default": options.source, "main": True}
    paths = [path for paths in given for path in paths]
    try:
        prog.load_debug_info(paths or None, **default)
    except drgn.MissingDebugInfoError as error:
        if not _has_kernel_symbols(prog) and not (
            _load_beside(prog, options, release) or _load_layout(prog, options)
        ):
            raise PageOwnerError(_missing_symbols(prog, options, release)) from error
        logging.getLogger("drgn").info("%s", error)
    except Exception as error:
        # drgn gives up if the description of one module is damaged.
        _load_main(prog, paths)
        if not _has_kernel_symbols(prog):
            raise PageOwnerError(f"cannot load the debugging symbols: {one_line(error)}") from error
        warn(
            "the list of modules is damaged "
            f"({one_line(error)}): only the kernel's own debugging symbols were loaded"
        )
    for path in options.extra_symbols:
        path = os.path.abspath(path)
        prog.extra_module(path, create=True).try_file(path)
    if not _has_kernel_symbols(prog):
        raise PageOwnerError(_missing_symbols(prog, options, release))
    _name_unused(prog, options, given)


def check_vmcoreinfo(prog: Program, path: str) -> None:
    """
    Check that the VMCOREINFO that *prog* was opened with matches the memory of its dump.

    :param path: File that the VMCOREINFO was read from.
    :raises PageOwnerError: if the VMCOREINFO is of another kernel or boot
    """
    wanted = vmcoreinfo(prog).text("OSRELEASE")
    try:
        found = prog["init_uts_ns"].name.release.string_().decode(errors="replace")
    except (FaultError, LookupError):
        found = None
    if found != wanted:
        raise PageOwnerError(
            f"{path} does not fit this dump: the memory at init_uts_ns is "
            + ("not in it" if found is None else "of something else")
            + f", and not of Linux {wanted}; the VMCOREINFO of another boot has other addresses"
        )


def _usable(path: str, release: str) -> list[str]:
    """
    Return the symbol files to load for a file that the user named.

    These are the file itself and, if it was stripped, the file with its debugging information.

    :param release: Release of the kernel, for error messages.
    :raises PageOwnerError: if the file does not exist or cannot have symbols
    """
    if not os.path.exists(path):
        raise PageOwnerError(f"no such file: {path}; -s takes the vmlinux of this kernel")
    beside = [path for path in _stripped_from(path) if os.path.isfile(path)]
    why = not_symbols(path, release)
    if why is None:
        return [path, *beside[:1]]
    if not beside:
        raise PageOwnerError(why)
    return beside[:1]


def _stripped_from(path: str) -> Iterator[str]:
    """Yield the paths at which GDB would look for a stripped file's debugging symbols."""
    folder, name = os.path.split(os.path.abspath(path))
    elf = Elf.read(path)
    if elf is None:
        # SUSE has /boot/vmlinux-RELEASE.gz, and /usr/lib/debug/boot/vmlinux-RELEASE.debug.
        base, extension = os.path.splitext(name)
        names = [f"{base}.debug"] if extension in (".gz", ".xz", ".zst") else []
    elif elf.has_dwarf or elf.debug_link is None:
        names = []
    else:
        names = [os.path.basename(elf.debug_link)]
    for other in names:
        for where in (folder, os.path.join(folder, ".debug"), _DEBUG_DIRECTORY + folder):
            found = os.path.join(where, other)
            if found != os.path.join(folder, name):
                yield found


def _load_beside(prog: Program, options: ProgramOptions, release: str) -> bool:
    """
    Load the kernel's symbols from where SUSE installs them, which drgn does not search.

    :return: Whether symbols were found.
    """
    if options.symbols:
        return False
    for directory in (*options.debug_directory, _DEBUG_DIRECTORY):
        for folder in ("boot", f"lib/modules/{release}", f"usr/lib/modules/{release}"):
            for name in (f"vmlinux-{release}.debug", "vmlinux.debug"):
                path = os.path.join(directory, folder, name)
                if os.path.isfile(path):
                    _load_main(prog, [path])
                    if _has_kernel_symbols(prog):
                        return True
    return False


def _load_layout(prog: Program, options: ProgramOptions) -> bool:
    """
    Load this kernel's layout pack from the cache.

    :return: Whether there is a pack and it was loaded.
    """
    build_id = prog.main_module().build_id
    if options.symbols or build_id is None:
        return False
    path = layout_path(build_id.hex())
    if not os.path.isfile(path):
        return False
    _load_main(prog, [path])
    return _has_kernel_symbols(prog)


def _load_main(prog: Program, paths: Sequence[str]) -> None:
    """
    Load the kernel's own symbols, without those of modules.

    :param paths: Files to load; if empty, drgn searches for the file.
    """
    try:
        module = prog.main_module()
    except LookupError:
        module = next(iter(prog.loaded_modules()))[0]
    for path in paths:
        module.try_file(path)
    if not paths:
        prog.load_module_debug_info(module)


def _name_unused(prog: Program, options: ProgramOptions, given: Sequence[Sequence[str]]) -> None:
    """
    Warn about symbol files that the user named but that do not match this dump.

    :param given: For each of ``options.symbols``, the files that were loaded for it.
    """
    used = set()
    for module in prog.modules():
        for path in (module.loaded_file_path, module.debug_file_path):
            if path is not None:
                used.add(os.path.realpath(path))
    main = prog.main_module()
    for path, paths in zip(options.symbols, given, strict=True):
        if used & {os.path.realpath(one) for one in paths}:
            continue
        elf = Elf.read(paths[0])
        build_id = elf.build_id if elf is not None else None
        if build_id is not None and main.build_id is not None and main.build_id.hex() == build_id:
            why = "the kernel's symbols come from " + str(main.debug_file_path)
        elif options.for_others:
            # Each of several dumps uses the files that match it.
            continue
        else:
            why = "it is not this kernel's vmlinux, nor one of the modules that were loaded" + (
                f" (build ID {build_id})" if build_id is not None else ""
            )
        warn(f"{path} was not used: {why}")


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


def _missing_symbols(prog: Program, options: ProgramOptions, release: str) -> str:
    try:
        module = prog.main_module()
        wanted = module.build_id.hex() if module.build_id else "unknown"
    except LookupError:
        wanted = "unknown"
    for path in options.symbols:
        elf = Elf.read(path)
        if elf is None or elf.build_id is None:
            return (
                f"{path} is an ELF file without a build ID: pass the vmlinux of {release} with -s"
            )
        if wanted == "unknown":
            # Before Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id string to
            # VMCOREINFO") (in v5.9) drgn matches by the Linux version.
            return (
                f"{path} is not the vmlinux of {release}, or has no debugging symbols (DWARF): "
                "this dump has no build ID, so drgn goes by the Linux version; pass the vmlinux "
                "of that kernel with -s"
            )
        if elf.build_id != wanted:
            return (
                f"{path} is of another kernel: its build ID is {elf.build_id}, the dump's kernel "
                f"{release} has {wanted}; pass that kernel's vmlinux with -s"
            )
        link = f" (they were put into {elf.debug_link})" if elf.debug_link is not None else ""
        return f"{path} has no debugging symbols (DWARF){link}: pass the vmlinux with them with -s"
    return (
        f"no debugging symbols for the kernel {release} (build ID {wanted}): "
        "pass its vmlinux with -s"
    )
