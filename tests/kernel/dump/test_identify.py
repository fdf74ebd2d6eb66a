# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test messages about files that are not dumps, or have no symbols."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import Dump, run_cli

from drgn_pageowner.elf import Elf
from drgn_pageowner.kernel.dump.identify import not_a_dump, not_symbols

pytestmark = pytest.mark.once

VMWARE = "vmss2core"
INSTEAD = "kdump, virsh dump --memory-only"

BEGINNINGS: dict[str, tuple[bytes, str, str]] = {
    "gzip": (b"\x1f\x8b\x08\0", "compressed with gzip", "gunzip -k "),
    "xz": (b"\xfd7zXZ\0\0\4", "compressed with xz", "unxz -k "),
    "zstd": (b"\x28\xb5\x2f\xfd\4", "compressed with zstd", "unzstd "),
    "bzip2": (b"BZh91AY&SY", "compressed with bzip2", "bunzip2 -k "),
    "lz4": (b"\x04\x22\x4d\x18", "compressed with lz4", "unlz4 "),
    "tar": (b"vmcore".ljust(257, b"\0") + b"ustar\x0000", "a tar archive", "tar xf "),
    "libvirt": (b"LibvirtQemudSave\2\0", "libvirt saved", "virsh restore "),
    "savevm": (b"QEVM\0\0\0\3", "QEMU saved", INSTEAD),
    "qcow2": (b"QFI\xfb\0\0\0\3", "disk image of QEMU", INSTEAD),
    "vmss": (b"\xd2\xbe\xd2\xbe\x08\0\0\0", "VMware saved", VMWARE),
    "vmsn": (b"\xd0\xbe\xd0\xbe\x08\0\0\0", "VMware saved", VMWARE),
    "lime": (b"EMiL\1\0\0\0", "LiME", INSTEAD),
    "avml": (b"AVML\2\0\0\0", "AVML", INSTEAD),
    "raw": (b"\x53\xff\0\xf0" * 256, "if it is raw memory", INSTEAD),
    "zeroes": (bytes(4096), "if it is raw memory", INSTEAD),
    "text": ("[    0.000000] Linux version 6.12 Grüße\n".encode() * 100, "is text", "-c takes"),
    "snapshot": (b"PAR1\0\0\0\0", "Parquet", "-S"),
    "bzImage": (b"\0" * 0x202 + b"HdrS" + b"\0" * 64, "bzImage", "-s the vmlinux"),
    "windows": (b"PAGEDU64", "Windows", "Linux"),
}


def said(result: CompletedProcess[str], status: int = 1) -> str:
    assert result.returncode == status, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("drgn-pageowner: ")
    return line


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_file_that_is_no_dump(kind: str, tmp_path: Path) -> None:
    start, what, do = BEGINNINGS[kind]
    path = tmp_path / "memory"
    path.write_bytes(start.ljust(8192, b"\0") if kind != "text" else start)
    line = not_a_dump(str(path))
    assert line is not None
    assert line.startswith(f"{path} ")
    assert what in line
    assert do in line


@pytest.mark.parametrize("kind", ["gzip", "libvirt", "vmss", "lime", "raw", "text", "qcow2"])
def test_the_command_line_says_it_in_one_line(kind: str, tmp_path: Path) -> None:
    start, what, do = BEGINNINGS[kind]
    path = tmp_path / "memory"
    path.write_bytes(start.ljust(8192, b"\0") if kind != "text" else start)
    line = said(run_cli("-c", path, "info"))
    assert what in line
    assert do in line


def test_memory_of_vmware(tmp_path: Path) -> None:
    path = tmp_path / "guest.vmem"
    path.write_bytes(b"\x53\xff\0\xf0" * 256)
    line = not_a_dump(str(path))
    assert line is not None
    assert VMWARE in line


def test_a_directory_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert "is empty" in said(run_cli("-c", tmp_path / "empty", "info"))
    assert "is a directory" in said(run_cli("-c", tmp_path, "info"))


def test_arguments_that_are_swapped(one_dump: Dump) -> None:
    line = said(run_cli("-c", one_dump.vmlinux, "-s", one_dump.vmcore, "info"))
    assert "are the two swapped?" in line
    line = said(run_cli("-c", one_dump.vmcore, "-s", one_dump.vmcore, "info"))
    assert "is a dump: it goes with -c" in line


def test_a_core_of_a_process(tmp_path: Path) -> None:
    note = struct.pack("<III", 5, 136, 3) + b"CORE\0\0\0\0" + bytes(136)
    header = (
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 4)
    )
    path = tmp_path / "core"
    path.write_bytes(header + note)
    assert "core dump of a process" in said(run_cli("-c", path, "info"))


def test_a_dump_is_not_called_something_else(one_dump: Dump) -> None:
    assert not_a_dump(str(one_dump.vmcore)) is None
    assert not_symbols(str(one_dump.vmlinux), "6.12") is None


# Files for -s.


def test_a_directory_for_symbols(one_dump: Dump, tmp_path: Path) -> None:
    line = said(run_cli("-c", one_dump.vmcore, "-s", tmp_path, "info"))
    assert "is a directory" in line
    assert "--debug-directory" in line


def test_a_vmlinux_that_is_compressed(one_dump: Dump, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux-6.12.gz"
    path.write_bytes(gzip.compress(b"\x7fELF"))
    line = said(run_cli("-c", one_dump.vmcore, "-s", path, "info"))
    assert f"gunzip -k {path}" in line


def test_a_vmlinux_of_32_bits_is_known_by_its_build_id(
    one_dump: Dump, dump_named: Callable[[str], Dump]
) -> None:
    other = dump_named("linux-6.12-i386/traps").vmlinux
    elf = Elf.read(str(other))
    assert elf is not None
    assert elf.build_id is not None
    line = said(run_cli("-c", one_dump.vmcore, "-s", other, "info"))
    assert f"is of another kernel: its build ID is {elf.build_id}" in line


def _objcopy(*arguments: object) -> None:
    if shutil.which("objcopy") is None:
        pytest.skip("needs objcopy")
    subprocess.run(["objcopy", *map(str, arguments)], check=True)


def test_what_was_stripped_from_a_file_is_found_beside_it(one_dump: Dump, tmp_path: Path) -> None:
    debug, stripped = tmp_path / "vmlinux.debug", tmp_path / "vmlinux"
    _objcopy("--only-keep-debug", one_dump.vmlinux, debug)
    _objcopy("--strip-debug", f"--add-gnu-debuglink={debug}", one_dump.vmlinux, stripped)
    elf = Elf.read(str(stripped))
    assert elf is not None
    assert (elf.has_dwarf, elf.debug_link) == (False, "vmlinux.debug")
    result = run_cli("-c", one_dump.vmcore, "-s", stripped, "top", "--limit", "3")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == one_dump.run("top", "--limit", "3").stdout
    debug.unlink()
    line = said(run_cli("-c", one_dump.vmcore, "-s", stripped, "--no-default-symbols", "info"))
    assert "no debugging symbols (DWARF) (they were put into vmlinux.debug)" in line


def test_where_suse_has_its_symbols(one_dump: Dump, tmp_path: Path) -> None:
    release = one_dump.snapshot.facts.release
    boot = tmp_path / "debug/boot"
    boot.mkdir(parents=True)
    _objcopy("--only-keep-debug", one_dump.vmlinux, boot / f"vmlinux-{release}.debug")
    words = ("top", "--limit", "3")
    expected = one_dump.run(*words).stdout
    found = run_cli("-c", one_dump.vmcore, "--debug-directory", tmp_path / "debug", *words)
    assert (found.returncode, found.stdout, found.stderr) == (0, expected, "")
    packed = boot / f"vmlinux-{release}.gz"
    packed.write_bytes(gzip.compress(b"\x7fELF"))
    found = run_cli("-c", one_dump.vmcore, "-s", packed, *words)
    assert (found.returncode, found.stdout, found.stderr) == (0, expected, "")


def test_symbols_that_are_of_nothing_in_the_dump_are_named(
    one_dump: Dump, dump_named: Callable[[str], Dump]
) -> None:
    other = dump_named("linux-6.1/kdump").vmlinux
    both = ("-s", one_dump.vmlinux, "-s", other)
    result = run_cli("-c", one_dump.vmcore, *both, "info")
    assert result.returncode == 0
    assert f"{other} was not used: it is not this kernel's vmlinux" in result.stderr
    # Each of two dumps uses its own symbols.
    result = run_cli("-c", one_dump.vmcore, *both, "diff", one_dump.vmcore)
    assert "was not used" not in result.stderr


# VMCOREINFO.


def vmcoreinfo_of(dump: Dump) -> bytes:
    data: bytes = dump.prog["VMCOREINFO"].string_()
    return data


@pytest.mark.parametrize("data", [b"", b"nonsense\n", b"\xff\xfe", b"OSRELEASE=6.12\n"])
def test_a_bad_vmcoreinfo(one_dump: Dump, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmcoreinfo"
    path.write_bytes(data)
    result = run_cli(
        "-c", one_dump.vmcore, "-s", one_dump.vmlinux, "--vmcoreinfo", path, "top", "--limit", "1"
    )
    assert "Traceback" not in result.stderr
    assert str(path) in said(result)


def test_a_vmcoreinfo_of_another_boot(one_dump: Dump, tmp_path: Path) -> None:
    path = tmp_path / "vmcoreinfo"
    words = ("-c", one_dump.vmcore, "-s", one_dump.vmlinux, "--vmcoreinfo", path, "info")
    own = vmcoreinfo_of(one_dump)
    path.write_bytes(own)
    assert run_cli(*words).returncode == 0

    def moved(line: bytes) -> bytes:
        key, _, value = line.partition(b"=")
        if key == b"KERNELOFFSET" or key.startswith(b"SYMBOL("):
            return key + b"=%x" % (int(value, 16) + 0x2000000)
        return line

    path.write_bytes(b"\n".join(moved(line) for line in own.split(b"\n")))
    assert f"{path} does not fit this dump" in said(run_cli(*words))


def test_a_kdump_without_vmcoreinfo(one_dump: Dump, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    shutil.copy(one_dump.vmcore, path)
    with path.open("r+b") as file:
        # Offset and size of VMCOREINFO in struct kdump_sub_header, and of the notes, which contain
        # it, too.
        file.seek(4096 + 32)
        file.write(bytes(32))
    line = said(run_cli("-c", path, "-s", one_dump.vmlinux, "info"))
    assert "VMCOREINFO" in line
    assert "--vmcoreinfo" in line
    info = tmp_path / "vmcoreinfo"
    info.write_bytes(vmcoreinfo_of(one_dump))
    words = ("-c", path, "-s", one_dump.vmlinux, "--vmcoreinfo", info, "top", "--limit", "1")
    result = run_cli(*words)
    assert (result.returncode, result.stderr) == (0, "")
