"""A mounted Secret that is swapped as the kubelet does, token files, and a server that plays Graph."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

TENANT = "0d7f8a11-5a31-4c0e-8a53-6d2a1f9c0001"
CLIENT = "11111111-2222-3333-4444-555555555555"
USER = "etl@contoso.example"
ENVIRONMENT = "login.microsoftonline.com"


def token(number: int) -> str:
    """Its first half is what a leak is found by."""
    return f"eyJ0b2tlbi-secret.{number}"


def cache_file(secret: str, *, lives: float = 3600, user: Optional[str] = USER, refresh_token: str = "") -> bytes:
    """Format O365, as the operator writes it. Without a user: app-only."""
    target = "Mail.ReadWrite User.Read" if user else "https://graph.microsoft.com/.default"
    home = f"f1e2d3c4-0000-4000-8000-000000000042.{TENANT}" if user else None
    expires_on = str(int(time.time() + lives))
    entry = {
        "credential_type": "AccessToken",
        "secret": secret,
        "home_account_id": home,
        "environment": ENVIRONMENT,
        "client_id": CLIENT,
        "target": target,
        "realm": TENANT,
        "token_type": "Bearer",
        "cached_at": str(int(time.time())),
        "expires_on": expires_on,
        "extended_expires_on": expires_on,
    }
    cache: dict[str, Any] = {
        "AccessToken": {f"{home or ''}-{ENVIRONMENT}-accesstoken-{CLIENT}-{TENANT}-{target}".lower(): entry},
        "AppMetadata": {f"appmetadata-{ENVIRONMENT}-{CLIENT}": {"client_id": CLIENT, "environment": ENVIRONMENT}},
    }
    if home:
        account = {"home_account_id": home, "environment": ENVIRONMENT, "realm": TENANT, "username": user}
        account |= {"local_account_id": home.partition(".")[0], "authority_type": "MSSTS"}
        cache["Account"] = {f"{home}-{ENVIRONMENT}-{TENANT}".lower(): account}
    if refresh_token:
        refresh = {k: entry[k] for k in ("home_account_id", "environment", "client_id", "target")}
        refresh |= {"credential_type": "RefreshToken", "secret": refresh_token}
        cache["RefreshToken"] = {f"{home}-{ENVIRONMENT}-refreshtoken-{CLIENT}--{target}".lower(): refresh}
    return json.dumps(cache).encode()


def oauth2_file(secret: str, *, lives: float = 3600) -> bytes:
    """Format OAuth2."""
    expires_at = int(time.time() + lives)
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_at))
    content = {"access_token": secret, "token_type": "Bearer", "expiry": expiry, "expires_at": expires_at}
    return json.dumps(content | {"scope": "Mail.ReadWrite"}).encode()


class Mount:
    """A directory laid out as the kubelet does for a Secret: KEY -> ..data/KEY, ..data -> ..N."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0
        self._old: Optional[Path] = None
        with WATCH.as_kubelet():
            path.mkdir()

    def __truediv__(self, key: str) -> Path:
        return self.path / key

    def put(self, data: bytes, key: str = "o365_token.txt") -> None:
        """Puts another file in place at once, as the kubelet does when the Secret has changed."""
        with WATCH.as_kubelet():
            self._number += 1
            new = self.path / f"..{self._number}"
            new.mkdir()
            (new / key).write_bytes(data)
            (new / key).chmod(0o444)
            if not (self.path / key).is_symlink():
                (self.path / key).symlink_to(Path("..data") / key)
            (self.path / "..data_tmp").symlink_to(new.name)
            (self.path / "..data_tmp").rename(self.path / "..data")
            if self._old:
                shutil.rmtree(self._old)
            self._old = new


class Watch:
    """An audit hook: nothing but loopback is reached, nothing is written into a mount, and opens can fail on purpose.

    File modes would not show a write, for root may write to a read-only file.
    """

    WRITING = frozenset(
        f"os.{name}"
        for name in ("remove", "rename", "mkdir", "rmdir", "chmod", "chown", "link", "symlink", "truncate", "utime")
    )

    def __init__(self) -> None:
        self.mount: Optional[str] = None
        self.refused_hosts: list[str] = []
        self.writes: list[str] = []
        self.opens = 0
        self.vanishes = 0
        """That many of the next opens find no file, as in the middle of a swap."""
        self._local = threading.local()

    @contextmanager
    def as_kubelet(self) -> Iterator[None]:
        self._local.is_kubelet = True
        try:
            yield
        finally:
            self._local.is_kubelet = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            self._check_host(args[0])
        elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
            self._check_host(args[1][0])
        elif event == "open" and self._is_watched(args[0]):
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                self.writes.append(f"open {args[0]}")
            self.opens += 1
            if self.vanishes > 0:
                self.vanishes -= 1
                raise FileNotFoundError(errno.ENOENT, "swapped away", args[0])
        elif event in self.WRITING and any(self._is_watched(path) for path in args[:2]):
            self.writes.append(f"{event} {args[0]}")

    def _is_watched(self, path: object) -> bool:
        if self.mount is None or getattr(self._local, "is_kubelet", False):
            return False
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.mount)

    def _check_host(self, host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        try:
            is_loopback = name in (None, "localhost") or ipaddress.ip_address(name).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            self.refused_hosts.append(str(name))
            raise ConnectionRefusedError(f"only loopback is allowed, not {name}")


WATCH = Watch()


def install_watch() -> None:
    """Before anything else is imported, to see what it does on import; a proxy would be asked for loopback too."""
    sys.addaudithook(WATCH)
    os.environ["NO_PROXY"] = "*"


class Graph:
    """Plays Graph on loopback: answers the accepted token with 200, or what `answer` says, and others with 401."""

    def __init__(self) -> None:
        self.accepted = ""
        self.answer = 200
        self.challenge = ""
        self.seen: list[tuple[int, str]] = []
        """Status and token of each request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.me = f"{self.url}/v1.0/me"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        graph = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                bearer = self.headers.get("Authorization", "").partition("Bearer ")[2]
                status = graph.answer if bearer == graph.accepted else 401
                graph.seen.append((status, bearer))
                body = json.dumps({"userPrincipalName": USER, "answers": bearer.rpartition(".")[2]}).encode()
                self.send_response(status)
                if status == 401 and graph.challenge:
                    self.send_header("WWW-Authenticate", graph.challenge)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def traces_of(error: BaseException) -> str:
    """All that an error could show: its text, and its attributes, and those of what it is chained to."""
    shown: list[str] = []
    current: Optional[BaseException] = error
    while current is not None:
        shown.append(f"{current!r} {current} {current.args!r} {vars(current)!r}")
        shown.append(repr([getattr(current, name, None) for name in ("doc", "object", "msg")]))
        current = current.__cause__ or current.__context__
    return "\n".join(shown)
