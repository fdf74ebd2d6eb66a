# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that files are written atomically, and that an existing file keeps its properties."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, Dump

from drgn_pageowner.storage import files
from drgn_pageowner.storage.files import remove_unfinished, replacing

pytestmark = pytest.mark.once

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def write(path: Path | str, data: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(data)


def only(directory: Path, *names: str) -> None:
    """Check that no temporary file is left."""
    assert sorted(os.listdir(directory)) == sorted(names)


def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    only(tmp_path, "a")


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o666])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old and longer")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    only(tmp_path, "a")


@AS_ROOT
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    os.chown(path, 1234, 4321)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("there", [True, False], ids=["target", "dangling"])
def test_a_link_stays_and_leads_to_the_new_content(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real/target"
    if there:
        target.write_bytes(b"old")
    (tmp_path / "middle").symlink_to("real/target")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert target.read_bytes() == b"new"
    only(tmp_path / "real", "target")
    only(tmp_path, "link", "middle", "real")


def test_links_in_a_ring_and_links_to_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("nowhere/at/all")
    for name in ("a", "c"):
        with pytest.raises(OSError, match=name if name == "a" else "nowhere"):
            write(tmp_path / name)
    only(tmp_path, "a", "b", "c")


def test_other_names_of_a_file_keep_naming_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    os.link(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a")
    assert (tmp_path / "b").read_bytes() == b"new"
    only(tmp_path, "a", "b")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    only(tmp_path, "a")


def test_a_planted_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / f".a.{'0' * 16}").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write(tmp_path / "a")
    assert victim.read_bytes() == b"precious"


def test_the_name_of_a_temporary_file_cannot_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        with replacing(tmp_path / "a") as file:
            file.write(b"x")
            [name] = [name for name in os.listdir(tmp_path) if name != "a"]
            seen.add(name)
            assert re.fullmatch(r"\.a\.[0-9a-f]{16}", name)
    assert len(seen) == 2


def test_a_temporary_file_is_closed_to_others_before_it_has_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.touch(0o600)
    modes: list[int] = []

    def looked_at(descriptor: int, *_: object) -> bool:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return True

    monkeypatch.setattr(files, "_become", looked_at)
    write(path)
    assert modes == [0o600]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write(path, b"old")
    others = [
        tmp_path / name for name in (".snapshot", ".snapshots.0123456789abcdef", ".snapshot.x")
    ]
    for other in others:
        other.touch()
    process = os.fork()
    if not process:
        with replacing(path) as file:
            file.write(b"new")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(list(tmp_path.iterdir())) == 5
    remove_unfinished(tmp_path, [path.name])
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    assert path.read_bytes() == b"old"


def test_a_fifo_stays_one(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write(fifo, b"through")
    reader.join(10)
    assert read == [b"through"]
    assert fifo.is_fifo()
    only(tmp_path, "fifo")


@AS_ROOT
def test_a_device_stays_one(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        null.open("wb").close()
    except OSError:
        pytest.skip("devices cannot be made here")
    write(null)
    assert null.is_char_device()
    only(tmp_path, "null")


def test_what_is_written_to_a_full_device_is_said() -> None:
    with pytest.raises(OSError, match="No space left"):
        write("/dev/full")
    assert Path("/dev/full").is_char_device()


def test_a_directory_and_a_file_that_may_not_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    if os.geteuid():
        (tmp_path / "a").touch(0o400)
        with pytest.raises(PermissionError):
            write(tmp_path / "a")


def _limited(code: str, size: int, **kwargs: object) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
         f"import sys; from drgn_pageowner.cli import main; sys.exit(main({code}))"],
        preexec_fn=limit, capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "words, name",
    [
        (["report", "{path}"], "a.json"),
        (["top", "--format", "folded", "-o", "{path}"], "a.folded"),
        (["save", "{path}"], "a.parquet"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_disk_that_is_full_leaves_what_was_there(
    one_dump: Dump, tmp_path: Path, words: list[str], name: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(b"old")
    command = ["-c", str(one_dump.vmcore), "-s", str(one_dump.vmlinux)]
    result = _limited(repr([*command, *(word.format(path=path) for word in words)]), 8192)
    assert result.returncode == 1
    assert result.stderr == f"drgn-pageowner: cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old"
    only(tmp_path, name)


def test_a_descriptor_is_written_to_where_it_stands(one_dump: Dump, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "out.parquet"
    with out.open("wb") as file:
        result = subprocess.run(
            [sys.executable, "-m", "drgn_pageowner", "-c", str(one_dump.vmcore),
             "-s", str(one_dump.vmlinux), "save", "/dev/stdout"],
            stdout=file, stderr=subprocess.PIPE, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
    assert "records" in result.stderr
    assert out.read_bytes()[:4] == out.read_bytes()[-4:] == b"PAR1"
    only(tmp_path, "out.parquet")
