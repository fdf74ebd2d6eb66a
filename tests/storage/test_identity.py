# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that the ID of a dump depends on its contents."""

from __future__ import annotations

import io

from conftest import Dump

from drgn_pageowner.storage.identity import DumpIdentity, identify, new_id

INFO = b"OSRELEASE=6.1.7\nBUILD-ID=00112233445566778899aabbccddeeff00112233\nPAGESIZE=4096\n"


def of(data: bytes) -> DumpIdentity:
    return identify(io.BytesIO(data), len(data))


def made(info: bytes, contents: bytes = b"x" * 100_000) -> bytes:
    return b"\x7fELF\2\1" + bytes(10) + b"\4\0" + bytes(46) + info + b"\0" + contents


def test_the_headers_of_a_dump(dump: Dump) -> None:
    data = dump.vmcore.read_bytes()
    found = of(data)
    assert found.is_dump
    assert found.release == dump.snapshot.facts.release
    assert found.build_id is not None
    assert found == of(data)
    assert of(data[: len(data) // 2]).id != found.id


def test_the_time_of_the_crash_tells_dumps_apart() -> None:
    first = of(made(INFO + b"CRASHTIME=1700000000\n"))
    second = of(made(INFO + b"CRASHTIME=1700000001\n"))
    assert first.crash_time == 1700000000
    assert first.build_id == "00112233445566778899aabbccddeeff00112233"
    assert first.id != second.id
    # With a time of the crash, the other contents have no effect.
    assert of(made(INFO + b"CRASHTIME=1700000000\n", b"y" * 100_000)).id == first.id


def test_without_a_time_the_contents_tell_them_apart() -> None:
    assert of(made(INFO)).id != of(made(INFO, b"y" * 100_000)).id
    assert of(made(INFO)).id == of(made(INFO)).id


def test_what_is_no_dump() -> None:
    found = of(b"hello" * 1000)
    assert not found.is_dump
    assert (found.release, found.build_id, found.crash_time) == (None, None, None)
    assert not of(b"").is_dump


def test_damaged_vmcoreinfo() -> None:
    found = of(made(b"OSRELEASE=\nBUILD-ID=zz\nCRASHTIME=soon\n"))
    assert (found.release, found.build_id, found.crash_time) == (None, None, None)


def test_ids_of_what_is_no_file() -> None:
    assert new_id("a", 1) == new_id("a", 1) != new_id("a", 2)
