# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sphinx extension that generates pages of the manual.

Before a build, it writes into ``generated/``: a page for every command and one for the common
options, from the parser of the command line; and texts from other directories, with adapted links.
Man pages are made from the pages of the commands, too.
"""

from __future__ import annotations

import argparse
import builtins
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.addnodes import manpage, pending_xref

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands.completion import command_parsers

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "drgn-pageowner"

TEXTS = {
    "README.md": "readme",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "testdata/README.md": "testdata",
    "tests/layouts/README.md": "layouts",
}
"""Paths of texts in other directories -> their names in the manual."""

_ALSO = f"""See also
--------

The options that choose a dump and its symbols are written before the command:
:manpage:`{PROGRAM}(1)` describes them.
"""

_LINK = re.compile(r"(?<!!)\[([^]]+)\]\(([^):]+)\)")
_IMAGE = re.compile(r"(!\[[^]]*\])\(docs/([^)]+)\)")


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "generated"))
    app.connect("source-read", _mend_links)
    app.connect("autodoc-process-docstring", _mend_help)
    app.connect("doctree-read", _keep_builtins)
    app.connect("doctree-resolved", _link_man_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(directory: Path) -> None:
    """Write all pages into *directory*; files that would not change are not written."""
    parser = build_parser()
    pages = {f"commands/{PROGRAM}.rst": _page(parser, PROGRAM, _common(parser))}
    for name, command in command_parsers(parser).items():
        pages[f"commands/{PROGRAM}-{name}.rst"] = _page(command, f"{PROGRAM} {name}", [_ALSO])
    for path, name in TEXTS.items():
        pages[f"{name}.md"] = links_for_manual((ROOT / path).read_text(), posixpath.dirname(path))
    for path in directory.glob("commands/*.rst"):
        if f"commands/{path.name}" not in pages:
            path.unlink()
    for name, text in pages.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def links_for_manual(text: str, directory: str) -> str:
    """
    Return the Markdown *text* with links adapted to the manual; links to other files become plain
    text.

    :param directory: Directory of *text* in the repository, to which its links are relative.
    """

    def mend(match: re.Match[str]) -> str:
        title, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path:
            return match.group()
        path = posixpath.normpath(posixpath.join(directory, path))
        if not (ROOT / path).exists():
            raise ValueError(f"{directory or '.'}: the link {target} leads nowhere")
        if path in TEXTS:
            return f"[{title}](/generated/{TEXTS[path]}.md{hash_}{anchor})"
        if path.startswith("docs/") and path.endswith(".md"):
            return f"[{title}](/{path.removeprefix('docs/')}{hash_}{anchor})"
        return title

    return _LINK.sub(mend, _IMAGE.sub(r"\1(/\2)", text))


def _mend_links(app: Sphinx, name: str, content: list[str]) -> None:
    if not name.startswith("generated/"):
        content[0] = links_for_manual(content[0], "docs")


def _mend_help(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Show the docstring of a command's module as --help does, because it is not reST."""
    in_commands = name.rpartition(".")[0] == "drgn_pageowner.commands"
    if what == "module" and in_commands and hasattr(obj, "run"):
        lines[:] = _description("\n".join(lines)).split("\n")


def _keep_builtins(app: Sphinx, doctree: nodes.document) -> None:
    """Prevent ``bytes`` in a signature from being linked to an attribute of that name."""
    for node in list(doctree.findall(pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, str(node.get("reftarget"))):
            node.replace_self(node.children)


def _link_man_pages(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Convert references between the man pages of commands to links; all pages are in one
    directory."""
    if app.builder.format == "html":
        for node in list(doctree.findall(manpage)):
            link = nodes.reference("", "", node.deepcopy(), refuri=f"{node['page']}.html")
            node.replace_self(link)


def man_pages() -> list[tuple[str, str, str, list[str], int]]:
    """Return the value of Sphinx's setting ``man_pages``."""
    parser = build_parser()
    return [(f"generated/commands/{PROGRAM}", PROGRAM, _one_line(parser.description), [], 1)] + [
        (f"generated/commands/{PROGRAM}-{name}", f"{PROGRAM}-{name}", summary, [], 1)
        for name, summary in _summaries(parser).items()
    ]


def _page(parser: argparse.ArgumentParser, title: str, more: list[str]) -> str:
    # From Python 3.14 on, usage has colours if a terminal is there.
    parser.color = False
    parts = [
        f"{title}\n{'=' * len(title)}\n",
        "Synopsis\n--------\n",
        _literal(re.sub(r"^(usage: | {7})", "", parser.format_usage(), flags=re.MULTILINE)),
        "Description\n-----------\n",
        _description(parser.description or ""),
        *_options(parser),
        *more,
    ]
    return "\n".join(parts)


def _common(parser: argparse.ArgumentParser) -> list[str]:
    """Return the text of the program's man page, without its options."""
    commands = "".join(
        f":manpage:`{PROGRAM}-{name}(1)`\n   {_escape(summary)}\n\n"
        for name, summary in _summaries(parser).items()
    )
    epilog = (parser.epilog or "").partition(": ")
    return [
        f"Commands\n--------\n\n{commands}",
        f"Exit status\n-----------\n\n{_description(epilog[2])}",
    ]


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a section for each group of arguments."""
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._SubParsersAction)]
        if not actions:
            continue
        title = (group.title or "").capitalize()
        yield f"{title}\n{'-' * len(title)}\n"
        if group.description:
            yield _description(group.description)
        for action in actions:
            help_ = parser._get_formatter()._expand_help(action) if action.help else ""
            yield f"{_names(action)}\n   {_escape(_one_line(help_))}\n"


def _names(action: argparse.Action) -> str:
    """Return the options of *action* and their arguments, as on the command line."""
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None and action.metavar is None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"*{_escape(metavar)}*"
    names = ", ".join(f"**{_escape(name)}**" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} *{_escape(metavar)}*"


def _summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return a line for every command, with its description."""
    return {
        choice.dest: choice.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }


def _description(text: str) -> str:
    """Convert a description for ``--help`` to reST; indented lines become literal blocks."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n")
        first = next((n for n, line in enumerate(lines) if line.startswith("  ")), len(lines))
        if first:
            paragraphs.append(_escape("\n".join(lines[:first])) + "\n")
        if first < len(lines):
            paragraphs.append(_literal("\n".join(lines[first:])))
    return "\n".join(paragraphs)


def _literal(text: str) -> str:
    return "::\n\n" + "".join(f"   {line}\n" for line in text.rstrip().split("\n"))


def _escape(text: str) -> str:
    """Escape *text* for reST."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
