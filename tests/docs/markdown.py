"""What a page tells its reader to type, and the manifests that it shows."""

import re
from dataclasses import dataclass
from pathlib import Path

# In these, somebody would expect commands; `console` says what is typed ("$ ") and what comes out.
IN_TEXT = "(in the text)"
SHELLS = {"sh", "bash", "shell", "zsh"}


@dataclass(frozen=True)
class Command:
    """A command, with its continuations, and the lines that the page shows below it."""

    page: str
    line: int
    text: str
    section: str = ""
    """The heading of second level that it is below; IN_TEXT where it is in no block."""
    output: tuple[str, ...] = ()

    @property
    def bare(self) -> str:
        """On one line, without a comment at its end."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return re.sub(r"\s+#( .*)?$", "", joined).strip()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.bare}"


@dataclass(frozen=True)
class Manifest:
    """A YAML block of whole objects."""

    page: str
    line: int
    text: str

    @property
    def documents(self) -> list[str]:
        return [part for part in re.split(r"^---\s*$", self.text, flags=re.M) if re.search(r"^kind:", part, re.M)]


@dataclass(frozen=True)
class Page:
    commands: list[Command]
    manifests: list[Manifest]
    problems: list[str]
    targets: list[str]
    """Of make, wherever the text names one."""


# In the text itself, beside what merely names a command: one with all that it needs, and without … at its end.
INLINE = re.compile(
    r"`((?:amtool|helm (?:template|install|upgrade)|kubectl -n [a-z-]+ [a-z]+|kubectl get [a-z]+ (?:-A|[a-z-]+ -o)"
    r"|kubectl explain [a-z]+[.]|kubectl graphtoken [a-z]+ [a-z-]+ -n)[^`]+)`"
)
MAKE = re.compile(r"`make ([a-z-]+)[^`]*`")


def _inline(page: str, text: str) -> list[Command]:
    """Commands that stand in the text. Those of blocks are blanked out, so that lines are counted as they are."""
    text = re.sub(r"^ *```.*?^ *```+ *$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
    found = []
    for match in INLINE.finditer(text):
        if match[1].endswith("…"):
            continue
        line = text.count("\n", 0, match.start()) + 1
        found.append(Command(page, line, " ".join(match[1].replace("\\|", "|").split()), IN_TEXT))
    return found


def _blocks(text: str):
    """The fenced blocks: language, section, number of the first line in it, lines without the fence's indentation."""
    language, section, begun, indent, lines = None, "", 0, "", []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"^( *)```+ *(\S*)\s*$", line)
        if language is None:
            if fence:
                indent, language, begun, lines = fence[1], fence[2], number + 1, []
            elif line.startswith("## "):
                section = line[3:].strip()
        elif fence and not fence[2]:
            yield language, section, begun, lines
            language = None
        else:
            lines.append(line.removeprefix(indent))
    if language is not None:
        raise ValueError(f"the block that begins in line {begun - 1} has no end")


def _commands(page: str, section: str, begun: int, lines: list[str]) -> list[Command]:
    found: list[Command] = []
    text, output, at = None, [], 0

    def finish():
        if text is not None:
            found.append(Command(page, at, text, section, tuple(output)))

    continued = False
    for number, line in enumerate(lines, start=begun):
        if continued:
            text += "\n" + line
        elif line.startswith("$ "):
            finish()
            text, output, at = line[2:], [], number
        elif line.strip():
            if text is None:
                raise ValueError(f"line {number} is output of no command: begin commands with '$ '")
            output.append(line)
            continue
        else:
            continue
        continued = line.endswith("\\")
    finish()
    return found


def read(root: Path, page: str) -> Page:
    """Reads a page, named from the root of the repository."""
    commands: list[Command] = []
    manifests: list[Manifest] = []
    problems: list[str] = []
    text = (root / page).read_text(encoding="utf-8")
    try:
        commands += _inline(page, text)
        for language, section, begun, lines in _blocks(text):
            if language in SHELLS:
                problems.append(
                    f"{page}:{begun}: a block of {language}: make it one of console, with '$ ' before commands"
                )
            elif language == "console":
                commands += _commands(page, section, begun, lines)
            elif language in ("yaml", "yml"):
                shown = "\n".join(lines) + "\n"
                if re.search(r"^apiVersion:", shown, re.M):
                    manifests.append(Manifest(page, begun, shown))
    except ValueError as error:
        problems.append(f"{page}: {error}")
    targets = MAKE.findall(" ".join(text.split()))
    return Page(sorted(commands, key=lambda command: command.line), manifests, problems, targets)
