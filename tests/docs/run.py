#!/usr/bin/env python3
"""Runs the docs: every command that they have a reader type, and every manifest that they show.

The guide for newcomers is run first, from an empty environment in a copy of this checkout, with the time of each step and
its outputs compared; then every other page, on the same kind of playground. Where no node can run, only what needs none is
looked at: whether each command is run at all.

Usage: tests/docs/run.py [--offline | PAGE...]     --offline: only what needs no node
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import markdown  # noqa: E402
from coverage import On, Setting, listed, problems, setting_of  # noqa: E402
from plan import AFRESH, ELSEWHERE, FOREIGN, GUIDE, INSTALL, SETTINGS  # noqa: E402
from reader import Reader, Said, missing  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "clients/python/README.md",
    "charts/*/README.md",
    "contrib/**/README.md",
    "docs/**/*.md",
]
UP = 'eval "$(hack/playground/up.sh | tail -n 1)"'
SOON = 60
"""Seconds within which what a page shows comes true, be the machine busy."""


def pages() -> dict[str, markdown.Page]:
    names = {str(path.relative_to(ROOT)) for pattern in PAGES for path in ROOT.glob(pattern)}
    return {name: markdown.read(ROOT, name) for name in sorted(names)}


class Failed(Exception):
    """A command or manifest of the docs does not work."""


def copy(to: Path) -> None:
    """This checkout as a clone has it, with what is not committed yet; times are kept, so that cargo finds its work done."""
    names = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    present = b"\0".join(name for name in names.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists())
    to.mkdir()
    archive = subprocess.Popen(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpack = subprocess.Popen(["tar", "-x", "-C", str(to)], stdin=archive.stdout)
    archive.stdin.write(present)
    archive.stdin.close()
    if archive.wait() or unpack.wait():
        raise Failed("the checkout could not be copied")
    (ROOT / "target").mkdir(exist_ok=True)
    (to / "target").symlink_to(ROOT / "target")


def quoted(text: str) -> str:
    return "".join(f"        | {line}\n" for line in text.rstrip().splitlines()[-40:])


class Runner:
    def __init__(self, folder: Path):
        self.folder = folder
        self.checkout = folder / "graphtoken-operator"
        copy(self.checkout)
        self.reader = Reader(folder, self.checkout)
        self.times: list[tuple[float, str]] = []
        self.printed: dict[str, str] = {}
        self.failures: list[str] = []

    def prepare(self, *commands: str) -> None:
        """What is no part of a page."""
        for command in commands:
            said = self.reader.type(command)
            if said.status:
                raise Failed(f"before it: {command}\n{quoted(said.text)}")

    def command(self, command: markdown.Command, ons: list[On], outputs: bool) -> Said:
        """Runs one, and returns what it said; with `outputs` that must look like what the page shows."""
        text, status, shows, until, before = command.text, 0, [], "", None
        for on in ons:
            self.prepare(*on.before)
            for old, new in on.replace:
                text = re.sub(old, new, re.sub(r"\\\n\s*", "", text))
            status, until = on.status or status, on.until or until
            shows += on.shows
            before = self.printed.get(text) if on.changes else before
        deadline = time.monotonic() + SOON
        while True:
            said = self.reader.type(text, until)
            wanting = missing(command.output, said.text) if outputs else []
            wanting += [show for show in shows if not re.search(show, said.text)]
            wanting += ["something else than before"] if said.text == before else []
            # Who looks, looks again.
            looks = re.match(r"kubectl (.* )?(get|exec|status)\b", command.bare)
            if not wanting or said.status != status or not looks or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if said.status != status:
            raise Failed(f"{command}\n    ended with {said.status}, not {status}:\n{quoted(said.text)}")
        if wanting:
            raise Failed(f"{command}\n    did not print {wanting!r} but:\n{quoted(said.text)}")
        self.printed[text] = said.text
        return said

    def pages(self, name: str, all_of: dict[str, markdown.Page], setting: Setting) -> None:
        """Runs the pages of a setting, one after the other. At the first command that does not work it is over with them."""
        print(f"\n-- {name}", flush=True)
        try:
            if name != GUIDE:
                self.prepare(*AFRESH, *setting.fixture)
            for page in [page for page in all_of if setting_of(page, SETTINGS) == name]:
                for command in all_of[page].commands:
                    if listed(command, ELSEWHERE) is None:
                        self.show(command, setting)
            if name == GUIDE:
                self.is_gone()
        except Failed as failure:
            self.fail(f"{name}: {failure}")
        for command in setting.after:
            self.reader.type(command)

    def show(self, command: markdown.Command, setting: Setting) -> None:
        ons = [on for on in setting.on if re.search(on.command, command.bare)]
        is_guide = command.page == GUIDE
        said = self.command(command, ons, outputs=is_guide)
        print(f"ok  {said.seconds:6.1f} s  {command.bare}", flush=True)
        if is_guide:
            self.times.append((said.seconds, command.bare))

    def fail(self, why: str) -> None:
        print(f"FAILED  {why}", flush=True)
        self.failures.append(why)

    def manifests(self, all_of: dict[str, markdown.Page]) -> None:
        print("\n-- manifests", flush=True)
        self.prepare(*AFRESH, INSTALL)
        parser = self.folder / "parser"
        (parser / "templates").mkdir(parents=True)
        (parser / "Chart.yaml").write_text("apiVersion: v2\nname: parser\nversion: 0.0.0\n")
        (parser / "templates/all.yaml").write_text("{{ toJson .Values }}\n")
        file = self.folder / "manifest.yaml"
        for name, page in all_of.items():
            for manifest in page.manifests:
                for document in manifest.documents:
                    kind = re.search(r"^kind: *([A-Za-z]+)", document, re.M)[1]
                    file.write_text(document)
                    if kind in FOREIGN:
                        what, command = (
                            f"is YAML (a kind of {FOREIGN[kind]})",
                            f"helm template x {parser} --values {file}",
                        )
                    else:
                        for namespace in re.findall(r"namespace: *([a-z0-9-]+)", document):
                            self.prepare(
                                f"kubectl create namespace {namespace} --dry-run=client -o yaml | kubectl apply -f -"
                            )
                        what, command = (
                            "is taken by the API server",
                            f"kubectl apply --dry-run=server --validate=strict -f {file}",
                        )
                    said = self.reader.type(command)
                    if said.status:
                        self.fail(f"{name}:{manifest.line}: this {kind} is refused:\n{quoted(said.text)}")
                    else:
                        print(f"ok  {name}:{manifest.line}: {kind} {what}", flush=True)

    def is_gone(self) -> None:
        """After the guide's last command nothing of it runs."""
        left = subprocess.run(
            ["grep", "-lsF", "--", str(self.checkout)] + [str(path) for path in Path("/proc").glob("[0-9]*/cmdline")],
            capture_output=True,
            text=True,
        ).stdout.split()
        for name in (".cluster", ".playground"):
            if (self.checkout / name).exists():
                left.append(name)
        mine = f"/proc/{os.getpid()}/cmdline"
        if left := [path for path in left if path != mine]:
            self.fail(f"{GUIDE}: its last command leaves behind: {left}")

    def summary(self) -> None:
        if self.times:
            print(f"\n-- {GUIDE}, step by step")
            for seconds, text in self.times:
                print(f"{seconds:7.1f} s  {text}")
            print(f"{sum(seconds for seconds, _ in self.times):7.1f} s  in all")


def run(all_of: dict[str, markdown.Page], only: list[str]) -> list[str]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    runner = Runner(folder)
    try:
        if not only or GUIDE in only:
            runner.pages(GUIDE, all_of, SETTINGS[GUIDE])
        others = {name: setting for name, setting in SETTINGS.items() if name != GUIDE and (not only or name in only)}
        if others or "manifests" in only:
            # Twice, as for a second terminal.
            runner.prepare(UP, "cp .playground/values.yaml ../values", UP, "cmp .playground/values.yaml ../values")
            for name, setting in others.items():
                runner.pages(name, all_of, setting)
            if not only or "manifests" in only:
                runner.manifests(all_of)
        runner.summary()
    except Failed as failure:
        runner.fail(str(failure))
    finally:
        down = subprocess.run([runner.checkout / "hack/playground/down.sh"], capture_output=True, text=True, check=False)
        if down.returncode:
            runner.fail(f"the playground did not end:\n{quoted(down.stderr)}")
        subprocess.run(["rm", "-rf", "--one-file-system", "--", folder], check=False)
    return runner.failures


def main() -> int:
    arguments = sys.argv[1:]
    all_of = pages()
    found = problems(ROOT, all_of, SETTINGS, ELSEWHERE)
    print(
        "\n".join(found)
        or f"ok: each of the {sum(len(page.commands) for page in all_of.values())} commands is run by a test"
    )
    if found or arguments == ["--offline"]:
        return bool(found)
    status = subprocess.run([ROOT / "hack/node/up.sh", "--check"], check=False).returncode
    if status == 77:
        print("SKIPPED: the commands themselves, for the reason above")
        return 0
    if status:
        return status
    # What was started is ended then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failures = run(all_of, arguments)
    print(f"{len(failures)} failed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
