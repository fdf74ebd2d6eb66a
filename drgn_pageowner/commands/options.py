# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options that choose a dump, a kernel or a snapshot."""

from __future__ import annotations

import argparse
import re

__all__ = ("add_jobs_option", "add_memory_option", "add_program_options")

_LEVELS = ("debug", "info", "warning", "error", "critical", "none")


def add_jobs_option(parser: argparse.ArgumentParser, default: str) -> None:
    """
    Add ``--jobs``.

    :param default: The number that is used without the option, in words.
    """
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="number of processes that read a large dump at the same time, and of threads that "
        f"work on it, with the same result (default: {default})",
    )


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--memory``."""
    parser.add_argument(
        "--memory",
        type=_size,
        metavar="SIZE",
        help="size of the large arrays (of pages, records, pointers) that may be in memory, such "
        "as 500M or 4G; those beyond are in a temporary file, in TMPDIR or /tmp, with the same "
        "result (default: no limit)",
    )


def _size(text: str) -> int:
    """
    Parse a number of bytes.

    :raises argparse.ArgumentTypeError: if it is none
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", text, re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 500M or 4G")
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2].upper() or " ")))


def _jobs(text: str) -> int:
    """
    Parse a number of processes.

    :raises argparse.ArgumentTypeError: if it is none, or less than 1
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes, 1 or more")
    return int(text)


def add_program_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``drgn`` itself takes to choose a program and its symbols, and -S."""
    source = parser.add_argument_group("program selection").add_mutually_exclusive_group()
    source.add_argument("-k", "--kernel", action="store_true", help="the running kernel (default)")
    source.add_argument("-c", "--core", metavar="PATH", help="a vmcore")
    source.add_argument(
        "--qemu", metavar="ADDRESS", help="a QEMU guest, by the address of its QMP monitor"
    )
    source.add_argument(
        "-S",
        "--snapshot",
        metavar="FILE",
        action="append",
        help="a snapshot that `save` wrote, instead of a dump, or the text of page_owner, "
        "page_owner_stacks, page_owner_sort or allocinfo; may be repeated, and a pattern "
        "(* ? []), for the commands that read several",
    )
    symbols = parser.add_argument_group("debugging symbols")
    symbols.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        help="vmlinux or module with debugging symbols; may be repeated",
    )
    which = symbols.add_mutually_exclusive_group()
    which.add_argument(
        "--main-symbols",
        dest="default_symbols",
        action="store_const",
        const={"main": True},
        help="look for the symbols of the kernel itself only, not of modules",
    )
    which.add_argument(
        "--no-default-symbols",
        dest="default_symbols",
        action="store_const",
        const={},
        help="look for no symbols but those given with -s",
    )
    symbols.add_argument("--extra-symbols", metavar="PATH", action="append", help="more symbols")
    for option, verb in (("--try-symbols-by", "also"), ("--no-symbols-by", "do not")):
        symbols.add_argument(
            option,
            metavar="METHOD[,METHOD...]",
            action="append",
            help=f"{verb} look for symbols by these methods (finders and options of drgn)",
        )
    for kind in ("debug", "kernel"):
        symbols.add_argument(
            f"--{kind}-directory",
            metavar="PATH",
            action="append",
            help=f"look for {'debugging symbols' if kind == 'debug' else 'vmlinux and modules'} "
            "there too",
        )
    advanced = parser.add_argument_group("advanced")
    advanced.add_argument(
        "--architecture",
        metavar="ARCH",
        help="architecture of the kernel, if the dump does not show it",
    )
    advanced.add_argument("--vmcoreinfo", metavar="PATH", help="file to use for VMCOREINFO")
    advanced.add_argument(
        "--page-size",
        type=int,
        metavar="BYTES",
        help="of the machine that a text is of, which does not say it (default: 4096)",
    )
    add_jobs_option(parser, "as many as there are CPUs for this process")
    add_memory_option(parser)
    parser.add_argument(
        "--log-level", choices=_LEVELS, default="error",
        help="drgn's messages (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-q",
        "--quiet",
        dest="log_level",
        action="store_const",
        const="none",
        help="no messages of drgn",
    )
