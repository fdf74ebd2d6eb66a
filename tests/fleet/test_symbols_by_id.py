# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test finding symbols by build ID: paths of distributions, compressed files, the cache,
debuginfod."""

from __future__ import annotations

import bz2
import gzip
import http.server
import lzma
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from drgn_pageowner.elf import Elf
from drgn_pageowner.fleet.symbols import NoSymbolsError, SymbolStore

ID = "00112233445566778899aabbccddeeff00112233"
RELEASE = "6.1.0-18-amd64"


def vmlinux(build_id: str = ID, *, dwarf: bool = True, release: str = RELEASE) -> bytes:
    """Make an ELF file with a build ID, a banner and a section .debug_info."""
    note = struct.pack("<III", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)
    banner = f"Linux version {release} (builder@host)\0".encode()
    names = b"\0.notes\0.debug_info\0.shstrtab\0"
    debug = b"\1" * 16 if dwarf else b""
    place, parts, sections = 64, b"", [bytes(64)]
    for name, kind, data in (
        (b".notes", 7, note), (b".debug_info", 1 if dwarf else 8, debug), (b".shstrtab", 3, names)
    ):  # fmt: skip
        header = struct.pack(
            "<IIQQQQIIQQ", names.index(name), kind, 0, 0, place + len(parts), len(data), 0, 0, 1, 0
        )
        sections.append(header)
        parts += data
    parts += banner
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(parts), 0, 64, 0, 0, 64, 4, 3)
    return head + parts + b"".join(sections)


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def test_the_file_that_is_made_is_one() -> None:
    path = Path(os.devnull)
    assert Elf.read(str(path)) is None
    assert vmlinux()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "layout",
    [
        "usr/lib/debug/boot/vmlinux-{release}",  # Debian, Ubuntu
        "usr/lib/debug/lib/modules/{release}/vmlinux",  # Debian, Fedora, RHEL
        "usr/lib/debug/usr/lib/modules/{release}/vmlinux.debug",  # SUSE
        "usr/lib/debug/.build-id/00/112233445566778899aabbccddeeff00112233.debug",
        ".build-id/00/112233445566778899aabbccddeeff00112233.debug",
        "boot/vmlinux-{release}",
        "{id}/debuginfo",
        "any/where/vmlinux",
        "any/where/vmlinux-of-tuesday.debug",
    ],
)
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress),
     (".zst", zstd)],
)  # fmt: skip
def test_every_layout_is_found(
    tmp_path: Path, layout: str, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "store" / (layout.format(release=RELEASE, id=ID) + suffix)
    path.parent.mkdir(parents=True)
    path.write_bytes(pack(vmlinux()))
    store = SymbolStore([str(tmp_path / "store")], str(tmp_path / "cache"))
    found = store.find(ID, RELEASE)
    elf = Elf.read(found)
    assert elf is not None
    assert elf.build_id == ID
    assert (found == str(path)) is not suffix.startswith(".")
    # The cached file is found if the compressed file was removed.
    if suffix:
        path.unlink()
    assert SymbolStore([str(tmp_path / "store")], str(tmp_path / "cache")).find(ID, None) == found


def test_the_right_one_of_several_is_taken(tmp_path: Path) -> None:
    for name, data in {
        "boot/vmlinux-" + RELEASE: vmlinux("ff" * 20),
        "lib/modules/" + RELEASE + "/vmlinux": vmlinux(dwarf=False),
        "a/vmlinux.gz": gzip.compress(vmlinux("ee" * 20)),
        "b/vmlinux.gz": b"\x1f\x8b damaged",
        "c/vmlinux.xz": lzma.compress(vmlinux()),
    }.items():
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    store = SymbolStore([str(tmp_path / "store")], str(tmp_path / "cache"))
    elf = Elf.read(store.find(ID, RELEASE))
    assert elf is not None
    assert (elf.build_id, elf.has_dwarf) == (ID, True)


def test_a_kernel_without_build_id_is_found_by_its_banner(tmp_path: Path) -> None:
    for name, release in (("vmlinux-1", "4.19.0"), ("vmlinux-2", "4.19.0-rc1"), ("vmlinux-3", "5")):
        (tmp_path / name).write_bytes(vmlinux(release=release))
    store = SymbolStore([str(tmp_path)], str(tmp_path / "cache"))
    assert store.find(None, "4.19.0-rc1") == str(tmp_path / "vmlinux-2")
    with pytest.raises(NoSymbolsError, match=r"5\.1"):
        store.find(None, "5.1")


def test_what_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSymbolsError, match=f"{RELEASE} with build ID {ID}"):
        SymbolStore([str(tmp_path)], str(tmp_path / "cache")).find(ID, RELEASE)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux())
    store = SymbolStore([str(tmp_path)], str(tmp_path / "cache"))
    first = store.find(ID, RELEASE)
    for text in ("", "[]", '{"path": 5}', '{"path": "/etc/passwd"}', '{"path": "/nowhere"}'):
        (tmp_path / "cache/symbols" / ID / "found.json").write_text(text)
        assert store.find(ID, RELEASE) == first


def test_debuginfod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "server/buildid" / ID
    folder.mkdir(parents=True)
    (folder / "debuginfo").write_bytes(vmlinux())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "server"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:{server.server_port}/")
        store = SymbolStore([], str(tmp_path / "cache"))
        try:
            found = store.find(ID, RELEASE)
            with pytest.raises(NoSymbolsError):
                store.find("ff" * 20, RELEASE)
        finally:
            server.shutdown()
            thread.join()
    assert Path(found).read_bytes() == vmlinux()
    assert store.find(ID, RELEASE) == found
