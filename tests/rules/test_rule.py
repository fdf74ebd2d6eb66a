# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules in files: what is read, which kernels they are of, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_pageowner.errors import UsageError
from drgn_pageowner.rules.rule import (
    BUILTIN,
    KernelRange,
    Rule,
    RuleMatch,
    parse_rule,
    read_rules,
    verdicts_of,
)

GOOD = 'severity = "bad"\ntext = "{pages} pages are lost"\nsql = "select 1 as pages"\n'
BAD = 'severity = "bad"\ntext = "x"\n'
STACK = '[stack]\nfunctions = ["a*"]\n'


def rule(level: str = "bad", name: str = "r", **more: str) -> Rule:
    return Rule(name, f"{name}.toml", level, more.pop("text", "{pages} pages"), sql="", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=5.10, <6.13", ("5.10.262", "6.12.107-arm64", "6.1"), ("5.9", "6.13.0-rc1", "7.2")),
        ("<=6.1", ("6.1.176", "4.14"), ("6.2",)),
        ("==6.12", ("6.12.107",), ("6.1.12", "6.120.1")),
        (">6.1", ("6.2", "6.10"), ("6.1.176", "5.10")),
        (">= v6.1.5", ("6.1.5", "6.2"), ("6.1", "6.1.4")),
    ],
)
def test_ranges_of_kernels(text: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    kernels = KernelRange.parse(text)
    assert all(map(kernels.includes, inside))
    assert not any(map(kernels.includes, (*outside, "", "next", None)))
    assert KernelRange().includes(None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("severity = ", "it is not TOML: "),
        ('text = "x"\nsql = "select 1"', "bad, warning, note, and it has none"),
        (GOOD.replace("bad", "fatal"), "not 'fatal'"),
        ('severity = "bad"\nsql = "select 1"', "it has no text"),
        ('severity = "bad"\ntext = "x"', "it has either sql or [stack]"),
        (GOOD + STACK, "it has either sql or [stack]"),
        (GOOD + "color = 1", "a rule has no 'color': it has severity, text"),
        (GOOD + "link = 1", "its link is no text"),
        (GOOD + 'kernel = "6.1 or later"', "its kernel has '6.1 or later', which is no bound"),
        ('severity = "bad"\ntext = "{cache}"\n' + STACK, "its text has {cache}: a rule"),
        (BAD + 'stack = 1', "its stack is no table"),
        (BAD + '[stack]\nof = "pages"', "of in [stack] is one of records"),
        (BAD + '[stack]\nof = "leaks"', "neither functions nor a module"),
        (BAD + STACK + "min_pages = true", "min_pages in [stack] is no"),
        (BAD + STACK + 'functions_of = "x"', "[stack] has no 'functions_"),
        (BAD + STACK + 'confidence = "high"', 'needs of = "leaks"'),
        (BAD + '[stack]\nfunctions = "a"', "is no list of texts"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text, "rules/mine.toml")
    [line] = str(caught.value).splitlines()
    assert line.startswith("rules/mine.toml: ")
    assert said in line


def test_bad_files_do_not_hide_good_ones(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text("no = toml =")
    (tmp_path / "latin.toml").write_bytes(b'text = "\xe9"')
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "README").write_text("no rule")
    found = read_rules([str(tmp_path)])
    assert [one.name for one in found.rules] == ["good"]
    assert [line.split(":")[0] for line in found.errors] == [
        str(tmp_path / f"{name}.toml") for name in ("bad", "folder", "latin")
    ]
    # One of a later directory replaces that of the same name.
    (tmp_path / "more").mkdir()
    (tmp_path / "more/good.toml").write_text(GOOD.replace("bad", "note"))
    both = read_rules([str(tmp_path), str(tmp_path / "more")])
    assert [one.level for one in both.rules] == ["note"]


def test_a_directory_without_rules(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no files \*\.toml"):
        read_rules([str(tmp_path)])
    with pytest.raises(UsageError, match="No such file"):
        read_rules([str(tmp_path / "none")])


def test_our_own_rules_can_be_read() -> None:
    found = read_rules([BUILTIN])
    assert found.errors == ()
    assert len(found.rules) >= 12
    assert all(one.link and one.detail for one in found.rules)
    # They can be asked about a dataset.
    assert all("snapshot" in one.sql for one in found.rules if one.sql is not None)


def test_verdicts() -> None:
    first, second = rule("note", "a"), rule("bad", "b", text="{size} of {who}, {more}", link="L")
    matches = [
        RuleMatch(first, {"pages": 1}),
        RuleMatch(second, {"pages": 2, "who": "x", "more": [1, 2]}),
        RuleMatch(second, {"pages": 3000, "who": "evil\x1b[2J", "more": None}),
    ]
    worst, least = verdicts_of(matches, 4096)
    assert (worst.rule, worst.level, worst.finding, worst.link) == ("b", "bad", "known cause", "L")
    assert worst.pages == 3002
    assert worst.text.startswith("11.7 MiB of evil")
    assert "\x1b" not in worst.text
    assert worst.text.endswith(", ?")
    assert worst.detail == "It matches 1 more time."
    assert (least.area, least.level, least.finding, least.text) == ("rule", "note", None, "1 pages")
