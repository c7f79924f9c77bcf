"""Reads a mounted file in a tight loop, and reports whether it was ever missing, empty, torn or of the wrong length.

    python reader.py --file /var/run/graph/o365_token.txt --kind json --rotations 3 --timeout 600

The kubelet writes a mounted Secret anew into a folder of its own and then renames the link that leads there. Whoever
opens the file in between may follow the old link into a folder that is just being removed: FileNotFoundError, once. So
a miss is followed by one retry at once, and what came of it is counted apart.

One JSON object goes to stdout, at SIGTERM, after `--rotations` changes of the content, or at `--timeout`. A token is
never printed: its SHA-256 stands for it. Ends with 0 only if every content was whole, every miss was healed by its one
retry, and the rotations that were asked for were seen.
"""

import argparse
import hashlib
import json
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("token", "json", "header")
# What a report lists of contents.
LISTED = 100


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reads a mounted file as fast as it can.")
    parser.add_argument("--file", required=True, type=Path, help="the mounted file")
    parser.add_argument("--kind", required=True, choices=KINDS, help="what its content is to be")
    parser.add_argument("--length", type=int, help="the length in bytes that its content is to have")
    parser.add_argument("--pause", type=float, default=0, help="seconds between reads")
    parser.add_argument("--rotations", type=int, default=0, help="end after so many changes; 0: never")
    parser.add_argument("--timeout", type=float, default=0, help="end after so many seconds; 0: never")
    return parser.parse_args()


def token_in(content: bytes, kind: str) -> str | None:
    """The access token of a whole content; None of any other."""
    try:
        text = content.decode("ascii" if kind != "json" else "utf-8")
        if kind == "token":
            return text if text and not text[-1].isspace() else None
        if kind == "header":
            name, _, value = text.partition(": ")
            scheme, _, bearer = value.partition(" ")
            whole = (name, scheme) == ("Authorization", "Bearer") and bearer.endswith("\n")
            return bearer.removesuffix("\n") or None if whole else None
        found = json.loads(text)
        if "access_token" in found:
            return found["access_token"]
        (entry,) = found["AccessToken"].values()
        return entry["secret"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass
class Tally:
    reads: int = 0
    missing: int = 0
    healed_by_one_retry: int = 0
    other_errors: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    torn: int = 0
    wrong_length: int = 0
    tokens: list[str] = field(default_factory=list)
    lengths: set[int] = field(default_factory=set)

    @property
    def rotations(self) -> int:
        return max(len(self.tokens) - 1, 0)

    def is_good(self, rotations: int) -> bool:
        bad = (
            self.empty
            + self.torn
            + self.wrong_length
            + len(self.other_errors)
            + self.missing
            - self.healed_by_one_retry
        )
        return bool(self.tokens) and bad == 0 and self.rotations >= rotations

    def read(self, path: Path) -> bytes | None:
        self.reads += 1
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self.missing += 1
        except OSError as error:
            name = type(error).__name__
            self.other_errors[name] = self.other_errors.get(name, 0) + 1
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        self.healed_by_one_retry += 1
        return content

    def judge(self, content: bytes, kind: str, length: int | None) -> None:
        """Called for a content that differs from the last one."""
        self.lengths.add(len(content))
        if not content:
            self.empty += 1
        elif length is not None and len(content) != length:
            self.wrong_length += 1
        elif (token := token_in(content, kind)) is None:
            self.torn += 1
        else:
            digest = hashlib.sha256(token.encode()).hexdigest()
            if not self.tokens or self.tokens[-1] != digest:
                self.tokens.append(digest)


def run(args: argparse.Namespace, told_to_end: threading.Event) -> int:
    began = time.monotonic()
    tally = Tally()
    last = None
    reason = None
    while not reason:
        content = tally.read(args.file)
        if content is not None and content != last:
            last = content
            tally.judge(content, args.kind, args.length)
        if args.rotations and tally.rotations >= args.rotations:
            reason = "rotations"
        elif args.timeout and time.monotonic() - began >= args.timeout:
            reason = "timeout"
        elif told_to_end.is_set():
            reason = "SIGTERM"
        elif args.pause:
            told_to_end.wait(args.pause)
    report = {
        "ended_by": reason,
        "seconds": round(time.monotonic() - began, 1),
        "reads": tally.reads,
        "missing": tally.missing,
        "healed_by_one_retry": tally.healed_by_one_retry,
        "other_errors": tally.other_errors,
        "empty": tally.empty,
        "torn": tally.torn,
        "wrong_length": tally.wrong_length,
        "lengths": sorted(tally.lengths),
        "rotations": tally.rotations,
        "tokens": tally.tokens[-LISTED:],
    }
    print(json.dumps(report), flush=True)
    return 0 if tally.is_good(args.rotations) else 1


def main() -> int:
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    return run(parse_args(), told_to_end)


if __name__ == "__main__":
    sys.exit(main())
