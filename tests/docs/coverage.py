"""Whether each command of the docs is run: by this test, or by another that can be named."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from markdown import Command, Page


@dataclass(frozen=True)
class Elsewhere:
    """Commands that another test runs."""

    pages: str
    """Of these pages, as a pattern."""
    command: str
    """Those that are this whole, as a regular expression."""
    test: str
    """The test, by its path."""
    contains: str
    """What stands in that test, and shows that it runs them."""
    sections: tuple[str, ...] = ()
    """Of these sections; with none, of all."""


@dataclass(frozen=True)
class On:
    """How a command of a page is run where it is not run simply as it stands."""

    command: str
    """Which, as a regular expression that is searched for in it."""
    before: tuple[str, ...] = ()
    """What is done first: what a reader has, and this machine has not."""
    replace: tuple[tuple[str, str], ...] = ()
    """What is put in place of what, as regular expressions: where a page means Entra or a real cluster."""
    status: int = 0
    shows: tuple[str, ...] = ()
    """What its output has, as regular expressions."""
    changes: bool = False
    """Typed again, it shows something else than before, if not at once."""
    until: str = ""
    """It goes on for ever: ended once its output has this."""


@dataclass(frozen=True)
class Setting:
    """What a page needs to be run."""

    fixture: tuple[str, ...] = ()
    on: tuple[On, ...] = ()
    after: tuple[str, ...] = ()
    """What is done at the end, whichever it is."""


def listed(command: Command, elsewhere: Sequence[Elsewhere]) -> Elsewhere | None:
    """Where the command is run, if it is not here."""
    for entry in elsewhere:
        if not fnmatch(command.page, entry.pages) or (entry.sections and command.section not in entry.sections):
            continue
        if re.fullmatch(entry.command, command.bare):
            return entry
    return None


def setting_of(page: str, settings: dict[str, Setting]) -> str | None:
    """Under which name, which may be a pattern, a page has its setting."""
    return next((name for name in settings if fnmatch(page, name)), None)


def problems(
    root: Path, pages: dict[str, Page], settings: dict[str, Setting], elsewhere: Sequence[Elsewhere]
) -> list[str]:
    """What is run nowhere, and what is said here of commands and tests that are not there."""
    found = [problem for page in pages.values() for problem in page.problems]
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for name, page in pages.items():
        found += [
            f"{name}: there is no `make {target}`"
            for target in page.targets
            if not re.search(rf"^{target}:", makefile, re.M)
        ]
    used: set[Elsewhere] = set()
    for name, page in pages.items():
        for command in page.commands:
            if (entry := listed(command, elsewhere)) is not None:
                used.add(entry)
            elif setting_of(name, settings) is None:
                found.append(
                    f"{command}\n    is run by no test: give its page a setting, or say which test runs it (tests/docs/plan.py)"
                )
    for entry in elsewhere:
        if entry not in used:
            found.append(f"{entry.command!r} is listed for {entry.pages}, where no such command is")
        elif not (root / entry.test).exists() or entry.contains not in (root / entry.test).read_text(encoding="utf-8"):
            found.append(f"{entry.command!r} is said to be run by {entry.test}, which has no {entry.contains!r}")
    for name, setting in settings.items():
        of = [page for page in pages if setting_of(page, settings) == name]
        if not of:
            found.append(f"{name} has a setting, and is not there")
            continue
        run = [one.bare for page in of for one in pages[page].commands if listed(one, elsewhere) is None]
        if not run:
            found.append(f"{name} has a setting, and no command for it")
        for on in setting.on:
            if not any(re.search(on.command, text) for text in run):
                found.append(f"{name} has no command with {on.command!r}")
    return found
