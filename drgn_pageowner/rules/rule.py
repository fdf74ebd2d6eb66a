# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read rules: TOML files, each of which describes a known cause and how it is recognized."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from drgn_pageowner.analysis.leaks.owners import CONFIDENCES
from drgn_pageowner.analysis.verdicts import KnownCause
from drgn_pageowner.errors import UsageError
from drgn_pageowner.escape import word
from drgn_pageowner.rules.stack import OF, StackPattern
from drgn_pageowner.units import counted, pages_size

__all__ = (
    "BUILTIN",
    "LEVELS",
    "KernelRange",
    "Rule",
    "RuleMatch",
    "RuleSet",
    "parse_rule",
    "read_rules",
    "verdicts_of",
)  # fmt: skip

BUILTIN = "builtin"
"""Name of the rules that are part of this package, where a directory of rules is expected."""

LEVELS = ("bad", "warning", "note")
"""Severities of rules, worst first."""

FINDING = "known cause"

_SUFFIX = ".toml"
_MEMBERS = ("severity", "text", "detail", "link", "kernel", "sql", "stack")
_STACK_MEMBERS = ("of", "functions", "module", "confidence", "min_pages", "min_percent",
                  "min_allocations")  # fmt: skip
_FIELD = re.compile(r"\{(\w+)\}")
# Fields of the text that need not be columns of the query.
_STACK_FIELDS = frozenset(("pages", "size", "allocations", "allocator", "module", "stacks",
                           "percent"))  # fmt: skip
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*v?(\d+(?:\.\d+)*)")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


class _BadRuleError(Exception):
    """A mistake in a rule; the message says what is wrong."""


@dataclass(frozen=True)
class KernelRange:
    """Releases of the kernel: all that fulfil every bound."""

    bounds: Sequence[tuple[str, tuple[int, ...]]] = ()
    """Operator (``>=``, ``<=``, ``==``, ``<`` or ``>``) and numbers of a release."""

    @classmethod
    def parse(cls, text: str) -> KernelRange:
        """
        Parse bounds with commas between them, as in ``">=5.10, <6.13"``.

        :raises ValueError: if *text* has another form
        """
        bounds = []
        for part in text.split(","):
            match = _BOUND.fullmatch(part.strip())
            if match is None:
                raise ValueError(part.strip())
            bounds.append((match.group(1), tuple(map(int, match.group(2).split(".")))))
        return cls(bounds)

    def includes(self, release: str | None) -> bool:
        """
        Return whether *release* is in the range.

        As many numbers of the release are compared as the bound has: ``<=6.1`` includes 6.1.176.

        :param release: ``UTS_RELEASE``; if it is unknown, only a range without bounds includes it.
        """
        if not self.bounds:
            return True
        found = _RELEASE.match(release or "")
        if found is None:
            return False
        numbers = tuple(map(int, found.group().split(".")))
        return all(_compare(numbers, operator, bound) for operator, bound in self.bounds)


def _compare(numbers: tuple[int, ...], operator: str, bound: tuple[int, ...]) -> bool:
    mine = (*numbers, *[0] * len(bound))[: len(bound)]
    return {
        ">=": mine >= bound, "<=": mine <= bound, "==": mine == bound,
        "<": mine < bound, ">": mine > bound,
    }[operator]  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """A known cause; it matches by either :attr:`sql` or :attr:`stack`."""

    name: str
    """Name of the file, without its suffix."""
    path: str
    level: str
    """One of :data:`LEVELS`."""
    text: str
    """Sentence, in which ``{NAME}`` stands for a column of the match."""
    detail: str = ""
    link: str | None = None
    kernels: KernelRange = KernelRange()
    sql: str | None = None
    """Query of the tables of a dataset; each row of its result is a match. If it has no column
    ``snapshot``, it can only be asked about a single snapshot."""
    stack: StackPattern | None = None

    def fields(self) -> set[str]:
        """Return the names in braces in :attr:`text` and :attr:`detail`."""
        return set(_FIELD.findall(self.text + self.detail))


@dataclass(frozen=True)
class RuleSet:
    """Rules, and what is wrong with the files that are none."""

    rules: Sequence[Rule]
    errors: Sequence[str] = ()
    """One line for each bad file: its path, and what is wrong."""


@dataclass(frozen=True)
class RuleMatch:
    """A match of a rule in a snapshot: a row of its query, or the sum of the stacks that match."""

    rule: Rule
    values: Mapping[str, Any]
    """Values of the row, by name."""


def parse_rule(text: str, path: str) -> Rule:
    """
    Parse a rule.

    :param text: Contents of the file.
    :param path: Path of the file, which names the rule.
    :raises UsageError: if it is not a rule; the message names the file and the mistake
    """
    try:
        try:
            members = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _BadRuleError(f"it is not TOML: {error}") from error
        return _rule(members, path)
    except _BadRuleError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def _rule(members: Mapping[str, Any], path: str) -> Rule:
    _only(members, _MEMBERS, "a rule")
    texts = {name: _text(members, name) for name in _MEMBERS if name != "stack"}
    if not texts["text"]:
        raise _BadRuleError("it has no text")
    level = texts["severity"]
    if level not in LEVELS:
        raise _BadRuleError(
            f"its severity is one of {', '.join(LEVELS)}, "
            + ("and it has none" if level is None else f"not {level!r}")
        )
    if (texts["sql"] is None) == ("stack" not in members):
        raise _BadRuleError("it has either sql or [stack]")
    try:
        kernels = KernelRange.parse(texts["kernel"]) if texts["kernel"] else KernelRange()
    except ValueError as error:
        raise _BadRuleError(
            f'its kernel has {str(error)!r}, which is no bound as in ">=5.10, <6.13"'
        ) from error
    rule = Rule(
        name=Path(path).stem,
        path=path,
        level=level,
        text=" ".join(texts["text"].split()),
        detail=" ".join((texts["detail"] or "").split()),
        link=texts["link"],
        kernels=kernels,
        sql=texts["sql"],
        stack=_stack(members["stack"]) if "stack" in members else None,
    )
    if rule.stack is not None and (unknown := rule.fields() - _STACK_FIELDS):
        raise _BadRuleError(
            f"its text has {{{min(unknown)}}}: a rule with [stack] has only "
            f"{', '.join(sorted(_STACK_FIELDS))}"
        )
    return rule


def _only(members: Mapping[str, Any], known: Collection[str], what: str) -> None:
    for name in members:
        if name not in known:
            raise _BadRuleError(f"{what} has no {name!r}: it has {', '.join(known)}")


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise _BadRuleError(f"its {name} is no text")
    return value


def _stack(members: Any) -> StackPattern:
    if not isinstance(members, dict):
        raise _BadRuleError("its stack is no table: begin it with [stack]")
    _only(members, _STACK_MEMBERS, "[stack]")
    of = members.get("of", OF[0])
    if of not in OF:
        raise _BadRuleError(f"of in [stack] is one of {', '.join(OF)}, not {of!r}")
    functions = members.get("functions", [])
    if not isinstance(functions, list) or not all(isinstance(name, str) for name in functions):
        raise _BadRuleError("functions in [stack] is no list of texts")
    module, confidence = _text(members, "module"), _text(members, "confidence")
    if not functions and module is None:
        raise _BadRuleError("[stack] has neither functions nor a module")
    if confidence is not None and of != "leaks":
        raise _BadRuleError('confidence in [stack] needs of = "leaks"')
    if confidence not in (None, *CONFIDENCES):
        raise _BadRuleError(f"confidence in [stack] is one of {', '.join(CONFIDENCES)}")
    numbers = {}
    for name in ("min_pages", "min_percent", "min_allocations"):
        value = members.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise _BadRuleError(f"{name} in [stack] is no number")
        numbers[name] = value
    return StackPattern(of, tuple(functions), module, confidence, **numbers)


def read_rules(where: Sequence[str]) -> RuleSet:
    """
    Read all rules in directories.

    :param where: Paths of directories, whose files ``*.toml`` are the rules; :data:`BUILTIN` for
        those of this package.
    :return: Rules in the order of the directories and of the files' names. If a rule of an earlier
        directory has the same name, the later one replaces it.
    :raises UsageError: if a directory does not exist, or has no such file
    """
    rules: dict[str, Rule] = {}
    errors = []
    for directory in where:
        for path, text in _files(directory):
            if isinstance(text, OSError):
                errors.append(f"{path}: it cannot be read: {text.strerror}")
                continue
            try:
                rule = parse_rule(text.decode("utf-8"), path)
            except UnicodeDecodeError:
                errors.append(f"{path}: it is not TOML: it is not UTF-8")
            except UsageError as error:
                errors.append(str(error))
            else:
                rules[rule.name] = rule
    return RuleSet(tuple(rules.values()), tuple(errors))


def _files(directory: str) -> list[tuple[str, bytes | OSError]]:
    if directory == BUILTIN:
        root = resources.files("drgn_pageowner.rules") / "builtin"
        names = sorted(entry.name for entry in root.iterdir() if entry.name.endswith(_SUFFIX))
        return [(f"{BUILTIN}/{name}", (root / name).read_bytes()) for name in names]
    path = Path(directory)
    try:
        paths = sorted(entry for entry in path.iterdir() if entry.suffix == _SUFFIX)
    except OSError as error:
        raise UsageError(f"no rules in {directory}: {error.strerror}") from error
    if not paths:
        raise UsageError(f"no rules in {directory}: it has no files *{_SUFFIX}")
    return [(str(one), _contents(one)) for one in paths]


def _contents(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def verdicts_of(matches: Sequence[RuleMatch], page_size: int) -> list[KnownCause]:
    """
    Return one verdict for each rule that matched, the worst first.

    The match with the most pages fills in the text; the others are counted in the detail.

    :param matches: Matches of one snapshot.
    :param page_size: Bytes of a page.
    """
    by_rule: dict[str, list[RuleMatch]] = {}
    for match in matches:
        by_rule.setdefault(match.rule.name, []).append(match)
    verdicts = [_verdict(of_rule, page_size) for of_rule in by_rule.values()]
    return sorted(verdicts, key=lambda one: LEVELS.index(one.level))


def _verdict(matches: Sequence[RuleMatch], page_size: int) -> KnownCause:
    # Of equal ones, the first.
    first = max(matches, key=lambda match: _pages(match) or 0)
    rule, known = first.rule, [pages for m in matches if (pages := _pages(m)) is not None]
    detail = _filled(rule.detail, first.values, page_size)
    if len(matches) > 1:
        more = len(matches) - 1
        detail = f"{detail} It matches {counted(more, 'more time')}.".strip()
    return KnownCause(
        "rule",
        rule.level,
        _filled(rule.text, first.values, page_size),
        detail,
        finding=FINDING if rule.level == "bad" else None,
        rule=rule.name,
        link=rule.link,
        pages=sum(known) if known else None,
    )


def _pages(match: RuleMatch) -> int | None:
    pages = match.values.get("pages")
    return None if pages is None or isinstance(pages, str) else int(pages)


def _filled(text: str, values: Mapping[str, Any], page_size: int) -> str:
    pages = values.get("pages")
    size = pages_size(int(pages) * page_size) if isinstance(pages, int | float) else None
    known = {"size": size, **values}

    def shown(field: re.Match[str]) -> str:
        value = known.get(field.group(1))
        if value is None:
            return "?"
        if isinstance(value, list | tuple):
            return ", ".join(word(str(item)) for item in value)
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return word(str(value))

    return _FIELD.sub(shown, text)
