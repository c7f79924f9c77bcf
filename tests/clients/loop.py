"""Uses a mounted token as a process that runs for weeks does: one Account of python-o365, a request every half second.

    python loop.py --token-dir /var/run/graph --client-id ID --tenant-id GUID --rotations 3 --timeout 600

The Account reads its token through `graphtoken.o365.MountedTokenBackend`, or with `--backend stock` through O365's own
FileSystemTokenBackend, to see what that does. Each line on stdout is one JSON object: a `token` for every request that
is the first to be answered with another token than the last, and in the end, at SIGTERM, after `--rotations` changes
or at `--timeout`, a `summary`. A token is never printed: its SHA-256 stands for it.

Ends with 0 only if every request succeeded and the rotations that were asked for were seen.
"""

import argparse
import datetime
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out
from loopback import REFUSED_HOSTS, bearer_sha256  # noqa: E402  (before what it is to watch)

from O365 import Account, FileSystemTokenBackend  # noqa: E402
from o365_common import API_URL, protocol_at, watch  # noqa: E402
from requests import RequestException, Response  # noqa: E402

# What a report lists at most, of failures and of answers.
LISTED = 50


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes requests with a mounted token until it is told to end.")
    parser.add_argument("--token-dir", required=True, help="the mounted directory")
    parser.add_argument("--token-file", default="o365_token.txt", help="the file in it")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--tenant-id", required=True, help="the GUID that the file calls realm")
    parser.add_argument("--api-url", default=API_URL, help="the Graph endpoint, without /v1.0")
    parser.add_argument("--path", default="/me", help="what to ask for, under /v1.0")
    parser.add_argument("--flow", choices=["public", "authorization", "credentials"], default="public")
    parser.add_argument("--backend", choices=["mounted", "stock"], default="mounted")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between requests")
    parser.add_argument("--rotations", type=int, default=0, help="end after so many changes of the token; 0: never")
    parser.add_argument("--timeout", type=float, default=0, help="end after so many seconds; 0: never")
    return parser.parse_args()


@dataclass
class Tally:
    """What happened so far."""

    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    failures: list[dict] = field(default_factory=list)
    # Refused answers that a retry made good: the caller of python-o365 sees nothing of them.
    refused_answers: int = 0
    tokens: list[str] = field(default_factory=list)
    # Of the request under way.
    answers: list[dict] = field(default_factory=list)

    def record(self, response: Response) -> None:
        sent = bearer_sha256(response.request.headers.get("Authorization"))
        self.answers.append({"time": now(), "status": response.status_code, "sent_bearer_sha256": sent})

    def success(self) -> None:
        self.succeeded += 1
        self.refused_answers += len(self.answers) - 1
        last = self.answers[-1]
        sent = last["sent_bearer_sha256"]
        if sent and (not self.tokens or self.tokens[-1] != sent):
            self.tokens.append(sent)
            say({"event": "token", **last, "rotations": self.rotations})

    def failure(self, error: Exception) -> None:
        self.failed += 1
        if len(self.failures) < LISTED:
            # The name only: a message may quote what was read.
            self.failures.append({"time": now(), "error": type(error).__name__, "answers": self.answers[-LISTED:]})

    @property
    def rotations(self) -> int:
        return max(len(self.tokens) - 1, 0)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def account_of(args: argparse.Namespace) -> Account:
    if args.backend == "mounted":
        # Here, so that the stock backend can be looked at where ours is not installed.
        from graphtoken.o365 import MountedTokenBackend as Backend
    else:
        Backend = FileSystemTokenBackend
    return Account(
        args.client_id if args.flow == "public" else (args.client_id, "unused"),
        protocol=protocol_at(args.api_url),
        auth_flow_type=args.flow,
        tenant_id=args.tenant_id,
        token_backend=Backend(token_path=args.token_dir, token_filename=args.token_file),
    )


def run(args: argparse.Namespace, told_to_end: threading.Event) -> int:
    began = time.monotonic()
    url = f"{args.api_url.rstrip('/')}/v1.0{args.path}"
    tally = Tally()
    account = account_of(args)
    watch(account.connection, tally.record)
    reason = None
    while not reason:
        tally.requests += 1
        tally.answers = []
        try:
            account.connection.get(url)
            tally.success()
        except (RequestException, OSError, ValueError, RuntimeError, LookupError, AssertionError) as error:
            tally.failure(error)
        if args.rotations and tally.rotations >= args.rotations:
            reason = "rotations"
        elif args.timeout and time.monotonic() - began >= args.timeout:
            reason = "timeout"
        elif told_to_end.wait(args.interval):
            reason = "SIGTERM"
    say(
        {
            "event": "summary",
            "ended_by": reason,
            "seconds": round(time.monotonic() - began, 1),
            "requests": tally.requests,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "failures": tally.failures,
            "refused_answers": tally.refused_answers,
            "rotations": tally.rotations,
            "tokens": tally.tokens,
            "refused_hosts": REFUSED_HOSTS[:LISTED],
        }
    )
    good = tally.succeeded > 0 and tally.failed == 0 and tally.rotations >= args.rotations
    return 0 if good else 1


def main() -> int:
    # At DEBUG, O365's log would hold the token.
    logging.disable(logging.CRITICAL)
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    return run(parse_args(), told_to_end)


if __name__ == "__main__":
    sys.exit(main())
