"""A newcomer at a terminal: nothing in the environment but HOME and PATH, and a browser for who must sign in."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

# What belongs to the machine and not to a person: where its toolchains are, how they reach their registries, and what
# whoever runs this has built already.
MACHINE = (
    "PLAYGROUND_PROGRAMS",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "GOPROXY",
    "GOFLAGS",
    "PIP_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_CERT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
)
# In the person's own folder, none of which a newcomer has.
LEFT_OUT = {".kube", ".bash_history", ".profile", ".bashrc"}
PATIENCE, BUILD = 300, 3600
"""Seconds for a command, and for one that builds all from nothing on a busy machine."""

# The command's exports, its folder and its status outlive its shell.
SHELL = r"""
set -o pipefail
state=$STATE command=$COMMAND
unset STATE COMMAND
if [[ -e $state ]]; then source "$state"; fi
cd -- "$(<"$state.folder")"
eval "$command"
status=$?
declare -px >"$state"
pwd >"$state.folder"
exit "$status"
"""


@dataclass
class Said:
    """How a command ended, what it printed (both streams), and how long it took."""

    status: int
    text: str
    seconds: float


def home(folder: Path) -> Path:
    """A home that has the machine's caches and toolchains, and no settings of kubectl or of a shell."""
    made = folder / "home"
    made.mkdir()
    for entry in Path.home().iterdir():
        if entry.name not in LEFT_OUT:
            (made / entry.name).symlink_to(entry)
    return made


class Reader:
    """Types commands, one after the other."""

    def __init__(self, folder: Path, begins_in: Path):
        self.state = folder / "shell"
        (folder / "shell.folder").write_text(f"{begins_in}\n")
        self.environment = {name: os.environ[name] for name in MACHINE if name in os.environ}
        self.environment |= {"HOME": str(home(folder)), "PATH": os.environ["PATH"], "STATE": str(self.state)}

    def type(self, command: str, until: str = "") -> Said:
        """Runs a command to its end, or until its output has something: then it is ended as by Ctrl-C."""
        begun = time.monotonic()
        patience = BUILD if "hack/playground/up.sh" in command else PATIENCE
        process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-c", SHELL],
            env=self.environment | {"COMMAND": command},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        timer = threading.Timer(patience, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        lines, seen, person = [], False, Person(self)
        try:
            for line in process.stdout:
                lines.append(line)
                person.reads(line)
                if until and not seen and re.search(until, line):
                    seen = True
                    os.killpg(process.pid, signal.SIGINT)
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.stdout.close()
        if until:
            status = 0 if seen else status or 1
        return Said(status, "".join(lines), time.monotonic() - begun)

    def value(self, name: str) -> str:
        """Of a variable that was exported."""
        found = re.search(rf'^declare -x {name}="(.*)"$', self.state.read_text(), re.M)
        return found[1] if found else ""


class Person:
    """Does what the terminal asks for: opens the page of a sign-in, or enters a code."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def reads(self, line: str) -> None:
        if (page := re.search(r"https?://127\.0\.0\.1\S+/authorize\?\S+", line)) is not None:
            self._asks(page[0])
        if (code := re.search(r"one-time code.* (\S+)$", line.rstrip())) is not None:
            self._asks(f"{self.reader.value('SIMULATOR')}/_sim/device-codes/approve", {"user_code": code[1]})

    def _asks(self, url: str, body: dict | None = None) -> None:
        """In a thread of its own: the command that waits for this must be listened to meanwhile."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = json.dumps(body).encode() if body else None
        threading.Thread(target=lambda: opener.open(url, data=data, timeout=30).read(), daemon=True).start()


def looks_like(documented: str, text: str) -> bool:
    """Whether a line of a page is one of an output: numbers, ages and widths of columns may differ, and … stands for anything."""
    pattern = []
    for word in documented.split():
        if re.fullmatch(r"(\d+[smhd])+", word):
            pattern.append(r"(\d+[smhd])+")
        else:
            escaped = re.sub(r"\d+", r"\\d+", re.escape(word))
            pattern.append(escaped.replace("…", ".*"))
    return re.search(r"^\s*" + r"\s+".join(pattern) + r"\s*$", text, re.M) is not None


def missing(documented: tuple[str, ...], text: str) -> list[str]:
    return [line for line in documented if not looks_like(line, text)]
