# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that a layout pack has the types and variables of its vmlinux, and that commands print the
same with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import Dump
from drgn import Program, Type

from drgn_pageowner.elf import Elf
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.layout.elf_file import ElfFile, names_of
from drgn_pageowner.kernel.layout.pack import layout_pack
from drgn_pageowner.kernel.session import ProgramSession

# A kernel whose per-CPU variables begin at address 0, and the newest kernel, of another
# architecture.
_DUMPS = (
    pytest.param("linux-5.10/noleak", marks=pytest.mark.thorough),
    "linux-7.2-arm64-16k/kdump",
)


@pytest.fixture(scope="module", params=_DUMPS)
def packed(
    request: pytest.FixtureRequest, dump_named: Callable[[str], Dump],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Dump, Path, Program]:  # fmt: skip
    """Return a dump, its layout pack, and the dump opened with the pack."""
    dump = dump_named(request.param)
    path = tmp_path_factory.mktemp("layout") / "pack.debug"
    path.write_bytes(layout_pack(dump.prog))
    return dump, path, open_program(ProgramOptions(core=str(dump.vmcore), symbols=(str(path),)))


def described(type_: Type) -> Any:
    """Return all properties of a type in drgn, without those of the types that it refers to."""
    members = [
        (one.name, one.bit_offset, one.bit_field_size, one.type.type_name())
        for one in getattr(type_, "members", None) or ()
    ]
    values = [tuple(one) for one in getattr(type_, "enumerators", None) or ()]
    return type_.kind, type_.qualifiers, getattr(type_, "size", None), members, values, str(type_)


@pytest.mark.once
def test_every_type_is_the_same(packed: tuple[Dump, Path, Program]) -> None:
    dump, path, prog = packed
    elf = ElfFile(str(path))
    strings = elf.section(".debug_str")
    assert strings is not None
    known = 0
    for text in elf.contents(strings).split(b"\0"):
        if not re.fullmatch(rb"[A-Za-z_]\w*", text):
            continue
        for keyword in ("struct ", "union ", "enum ", ""):
            name = keyword + text.decode()
            try:
                wanted = dump.prog.type(name)
            except (LookupError, SyntaxError):
                with pytest.raises((LookupError, SyntaxError)):
                    prog.type(name)
                continue
            if keyword and not wanted.is_complete():
                continue
            assert described(prog.type(name)) == described(wanted), name
            known += 1
    assert known > 1500


@pytest.mark.once
def test_every_variable_is_at_its_place(packed: tuple[Dump, Path, Program]) -> None:
    dump, _, prog = packed
    known = 0
    for symbol in dump.prog.symbols():
        name = symbol.name
        try:
            wanted = dump.prog.variable(name)
        except LookupError:
            continue
        if wanted.absent_ or wanted.address_ is None:
            # The compiler optimized the variable away.
            continue
        found = prog.variable(name)
        assert (found.address_, found.type_.type_name()) == (
            wanted.address_, wanted.type_.type_name(),
        )  # fmt: skip
        assert prog.symbol(name).address == dump.prog.symbol(name).address
        known += 1
    assert known > 1500


@pytest.mark.once
def test_commands_answer_the_same(
    packed: tuple[Dump, Path, Program], live: Callable[[Dump], ProgramSession], tmp_path: Path
) -> None:
    dump, _, prog = packed
    ours, theirs = ProgramSession(prog), live(dump)
    pfn = int(dump.snapshot["pfn"][0])
    for line in (
        "info --format json", "top --format json", "account --slab --format json",
        "frag culprits --format json", "leaks --format json", f"page pfn:{pfn}", f"why pfn:{pfn}",
        "typegraph --by type --limit 0",
    ):  # fmt: skip
        assert ask(ours, line) == ask(theirs, line), line
    pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    files = tmp_path / "ours", tmp_path / "theirs"
    for session, file in zip((ours, theirs), files, strict=True):
        assert ask(session, f"save --leaks -o {file}")[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_source_lines_are_what_it_lacks(packed: tuple[Dump, Path, Program]) -> None:
    _, path, prog = packed
    status, out, error = ask(ProgramSession(prog), "top --source")
    assert (status, out) == (1, "")
    assert error == (
        f"{path} is a layout pack, which has no source lines: pass the vmlinux of this kernel with "
        "-s"
    )


def test_the_file(packed: tuple[Dump, Path, Program]) -> None:
    dump, path, prog = packed
    ours, theirs = Elf.read(str(path)), Elf.read(str(dump.vmlinux))
    assert ours is not None
    assert theirs is not None
    assert (ours.build_id, ours.has_dwarf, ours.is_layout) == (theirs.build_id, True, True)
    assert not theirs.is_layout
    assert path.stat().st_size < 500_000
    # The layout pack of a program that was opened with a pack is the same pack.
    assert layout_pack(prog) == path.read_bytes()
    symbols, strings = ElfFile(str(path)).symbols()
    assert b"page_owner_ops" in names_of(symbols, strings)


@pytest.mark.once
def test_what_is_kept_is_found_by_the_build_id(
    dump_named: Callable[[str], Dump], cli: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dump = dump_named("linux-5.10/noleak")
    missing = cli("-c", dump.vmcore, "--main-symbols", "top")
    assert missing.returncode == 1
    assert "no debugging symbols" in missing.stderr
    assert dump.run("layout", "--keep").returncode == 0
    assert cli("-c", dump.vmcore, "--main-symbols", "top").stdout == dump.run("top").stdout
    assert missing.stdout == ""


def test_a_damaged_file_is_reported(dump_named: Callable[[str], Dump], tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    whole = dump_named("linux-5.10/noleak").vmlinux.read_bytes()
    for data, words in ((whole[: 1 << 20], "damaged"), (b"", "damaged")):
        path.write_bytes(data)
        with pytest.raises(PageOwnerError, match=words):
            ElfFile(str(path)).symbols()
    with pytest.raises(PageOwnerError, match="cannot read"):
        ElfFile(str(tmp_path / "nothing"))
