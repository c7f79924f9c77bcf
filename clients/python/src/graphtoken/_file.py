"""A mounted token file: read again at every call, told apart by content, never written.

No token may get into an error, a log or a repr. So nothing of the content is ever quoted, and no error of a parser is
chained to ours: such an error carries the whole text that it could not parse.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

log = logging.getLogger("graphtoken")

StrPath = Union[str, "os.PathLike[str]"]

_LATEST = 253_402_300_799  # the last second of the year 9999, where datetime ends
_DESCRIBE = "See what `kubectl describe graphtoken` says."
# What O365 and MSAL search in a cache. They take for granted that each is an object of objects.
_SECTIONS = ("AccessToken", "Account", "IdToken", "AppMetadata")


class TokenUnavailableError(RuntimeError):
    """The mounted file gives no token that could be used. The message says why and what to check."""


class MalformedError(Exception):
    """What is wrong with the content of a file, in words that quote nothing of it."""


@dataclass(frozen=True)
class Content:
    """What a token file holds."""

    token: str = field(repr=False)
    expires_on: int
    """Seconds since the epoch."""
    cache: dict[str, Any] = field(repr=False)
    """The token cache, if the file is one; else empty."""

    @property
    def is_alive(self) -> bool:
        return self.expires_on > time.time()


class MountedFile:
    """A token file in a mounted Secret, whose bytes change when the kubelet swaps the volume's link."""

    def __init__(self, path: StrPath, parse: Callable[[bytes], Content]) -> None:
        self.path = os.fspath(path)
        self._parse = parse
        self._lock = threading.Lock()
        self._bytes: Optional[bytes] = None
        self._content: Optional[Content] = None
        self._reported: Optional[str] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def current(self) -> Content:
        """What the file holds now, dead or alive. A file that cannot be used does not take away a token that lives."""
        with self._lock:
            fresh = self._reload()
            if isinstance(fresh, Content):
                self._reported = None
                return fresh
            kept = self._content if self._content and self._content.is_alive else None
            self._report(fresh, kept)
        if kept is None:
            raise TokenUnavailableError(f"{self.path}: {fresh}")
        return kept

    def live(self) -> Content:
        """The same, and the token has not expired."""
        content = self.current()
        if not content.is_alive:
            raise TokenUnavailableError(
                f"{self.path}: the token in it expired at {_rfc3339(content.expires_on)}. {_DESCRIBE} If that says "
                "Ready, the file does not update: is the Secret mounted as a directory, not by subPath?"
            )
        return content

    def _reload(self) -> Union[Content, str]:
        """Takes over the file if it has changed. Returns its content, or what is wrong with it."""
        try:
            data = self._read()
            if self._content is None or data != self._bytes:
                # Only what could be parsed is remembered, so that a bad file does not displace a good one.
                self._content = self._parse(data)
                self._bytes = data
            return self._content
        except FileNotFoundError:
            return (
                "there is no such file. Is the Secret mounted there, as a directory and not by subPath, and does it "
                f"have this key? {_DESCRIBE}"
            )
        except PermissionError:
            return (
                "this process may not read it. Check the volume's defaultMode, and runAsUser and fsGroup in the pod's "
                "securityContext."
            )
        except IsADirectoryError:
            return "it is a directory. Name the file in it."
        except NotADirectoryError:
            return "what should be its directory is a file. Give the directory and the file's name."
        except OSError as error:
            return f"it cannot be read: {error.strerror}."
        except MalformedError as error:
            return f"{error}."

    def _read(self) -> bytes:
        try:
            return _bytes_of(self.path)
        except FileNotFoundError:
            # The kubelet has just swapped the link, and removed the directory to which it led when we followed it.
            return _bytes_of(self.path)

    def _report(self, problem: str, kept: Optional[Content]) -> None:
        """Logs a problem once, not at every read."""
        if problem != self._reported:
            self._reported = problem
            outcome = "the token read before is used until it expires" if kept else "there is no token"
            log.warning("%s: %s Meanwhile %s.", self.path, problem, outcome)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def parse_cache(data: bytes) -> Content:
    """Reads a file of format O365: a token cache of MSAL."""
    content = _object_of(data)
    if "AccessToken" not in content:
        other = "it is a file of format OAuth2" if "access_token" in content else "it has no AccessToken"
        raise MalformedError(f"{other}; needed is a key of the Secret whose format is O365")
    return _from_cache(content)


def parse_any(data: bytes) -> Content:
    """Reads a file of format O365 or OAuth2."""
    content = _object_of(data)
    if "AccessToken" in content:
        return _from_cache(content)
    if "access_token" not in content:
        raise MalformedError(
            "it has neither AccessToken nor access_token; needed is a key of the Secret whose format is O365 or OAuth2"
        )
    return Content(_token(content["access_token"], "access_token"), _epoch(content.get("expires_at"), "expires_at"), {})


def _object_of(data: bytes) -> dict[str, Any]:
    problem = "it is empty"
    if data.strip():
        try:
            content = json.loads(data)
        except json.JSONDecodeError as error:
            problem = f"it is not JSON, from line {error.lineno}, column {error.colno} on"
        except (ValueError, RecursionError):
            problem = "it is not JSON"
        else:
            if isinstance(content, dict):
                return content
            problem = "it is not a JSON object"
    raise MalformedError(f"{problem}; needed is a key of the Secret whose format is O365 or OAuth2")


def _from_cache(content: dict[str, Any]) -> Content:
    cache: dict[str, Any] = {}
    for section in _SECTIONS:
        entries = content.get(section, {})
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise MalformedError(f"{section} is not an object of objects")
        # A refresh token is not among the sections, so that nobody redeems it here: it belongs to the operator, and
        # the next one could not be written back.
        cache[section] = entries
    found = []
    for entry in cache["AccessToken"].values():
        token = _token(entry.get("secret"), "AccessToken: secret")
        found.append(Content(token, _epoch(entry.get("expires_on"), "AccessToken: expires_on"), cache))
        if entry.get("credential_type") != "AccessToken" or not isinstance(entry.get("target", ""), str):
            raise MalformedError("AccessToken: credential_type or target is not what MSAL writes")
    if not found:
        raise MalformedError("AccessToken has no entry")
    return found[0]


def _token(value: object, name: str) -> str:
    # What could not be in a header would be refused later by a library that quotes it.
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise MalformedError(f"{name} is not a token")
    return value


def _epoch(value: object, name: str) -> int:
    """MSAL writes digits in a string, OAuth2 files have a number."""
    seconds: float = 0
    if isinstance(value, str):
        seconds = int(value) if re.fullmatch(r"[0-9]{1,12}", value) else 0
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    # Not so for infinity and NaN, either.
    if not 0 < seconds <= _LATEST:
        raise MalformedError(f"{name} is not a time in seconds since 1970")
    return int(seconds)


def _rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
