# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run commands and save their output in files; if one fails, the others still run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from drgn_pageowner.commands import COMMANDS, CommandParser, add_commands, run_command
from drgn_pageowner.commands.output import output_to
from drgn_pageowner.errors import INTERNAL, PageOwnerError, internal_error, out_of_memory
from drgn_pageowner.model.session import Session
from drgn_pageowner.storage.files import replacing

__all__ = ("Outcome", "Part", "files_of", "run_part")

_PREFIX = "drgn-pageowner: "
_TRACEBACK = ".traceback"


@dataclass(frozen=True)
class Part:
    """A command and the files that it writes, or a step without a command."""

    name: str
    words: tuple[str, ...] = ()
    """The command line."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """``--format`` -> name of the file that its output goes to."""
    files: tuple[str, ...] = ()
    """Names of files that the command writes itself; it is run once for each."""
    step: Callable[[Session], Any] | None = None
    """Function to call instead of a command; its result becomes :attr:`Outcome.result`."""


@dataclass
class Outcome:
    """The outcome of a part."""

    name: str
    command: str
    status: str = "ok"
    """``"ok"``, ``"failed"`` (this dump cannot answer it), ``"skipped"`` (something is not
    installed) or ``"crashed"`` (an error of this program: NAME.traceback has it)."""
    exit_status: int = 0
    """The exit status of the command."""
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    error: str | None = None
    """The reason why it is not ``"ok"``, in one line."""
    warnings: list[str] = field(default_factory=list)
    """The lines that the command printed on stderr."""
    result: Any = None
    """The value that :attr:`Part.step` returned."""

    def problems(self) -> list[str]:
        """Return the problems of the dump that this part reported."""
        failed = [self.error] if self.status == "failed" and self.error is not None else []
        return self.warnings + failed

    def entry(self) -> dict[str, Any]:
        """Return the entry of this part in the index."""
        entry = {**vars(self), "seconds": round(self.seconds, 3)}
        del entry["result"]
        return entry


def run_part(
    part: Part, session: Session, directory: Path, given: Mapping[str, Any] | None = None
) -> Outcome:
    """
    Run *part* in all its formats; the outcome says what went wrong, if anything did.

    :param given: Arguments of the command that have no option, by name.
    """
    outcome = Outcome(part.name, " ".join(part.words))
    if part.step is None and part.words[0] not in COMMANDS:
        outcome.status, outcome.error = "skipped", f"there is no command {part.words[0]}"
        return outcome
    start = time.perf_counter()
    said = StringIO()
    try:
        with redirect_stderr(said):
            _run(part, session, directory, outcome, given or {})
    except PageOwnerError as error:
        # A library of an extra is not installed.
        missing = isinstance(error.__context__, ImportError)
        _failed(outcome, "skipped" if missing else "failed", str(error), error.exit_status)
    except OSError as error:
        _failed(outcome, "failed", f"cannot write: {error}", PageOwnerError.exit_status)
    except MemoryError as error:
        _failed(outcome, "failed", out_of_memory(error), INTERNAL)
    except Exception as error:
        _crashed(outcome, error, directory)
    outcome.seconds = time.perf_counter() - start
    lines = (line.removeprefix(_PREFIX) for line in said.getvalue().splitlines())
    outcome.warnings = list(dict.fromkeys(lines))
    return outcome


def files_of(part: Part) -> list[str]:
    """Return the names of all files that *part* may write."""
    return [*part.formats.values(), *part.files, f"{part.name}{_TRACEBACK}"]


def _failed(outcome: Outcome, status: str, error: str, exit_status: int) -> None:
    outcome.status, outcome.exit_status = status, exit_status
    outcome.error = " ".join(error.split())


def _crashed(outcome: Outcome, error: Exception, directory: Path) -> None:
    """Record an internal error in *outcome*, and save its traceback in *directory*."""
    _failed(outcome, "crashed", internal_error(error), INTERNAL)
    path = directory / f"{outcome.name}{_TRACEBACK}"
    try:
        with replacing(path) as file:
            text = "".join(traceback.format_exception(error))
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError:
        return
    outcome.files.append(path.name)


def _run(
    part: Part, session: Session, directory: Path, outcome: Outcome, given: Mapping[str, Any]
) -> None:
    if part.step is not None:
        outcome.result = part.step(session)
        # A report contains the parts that could be computed, and the errors of the others.
        for error in getattr(outcome.result, "errors", ())[:1]:
            _crashed(outcome, error, directory)
    for name in part.files:
        with StringIO() as out:
            _command([*part.words, str(directory / name)], session, out, outcome, given)
        outcome.files.append(name)
    for format_, name in part.formats.items():
        path = directory / name
        with output_to(str(path), StringIO()) as out:
            _command([*part.words, "--format", format_], session, out, outcome, given)
        outcome.files.append(name)


def _command(
    words: Sequence[str], session: Session, out: Any, outcome: Outcome, given: Mapping[str, Any]
) -> None:
    parser = CommandParser(prog="triage")
    add_commands(parser)
    args = parser.parse_args(words)
    vars(args).update(given)
    status = run_command(args, session, out)
    outcome.exit_status = max(outcome.exit_status, status)
