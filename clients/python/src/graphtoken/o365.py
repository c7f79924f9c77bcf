"""A token backend for python-o365 that follows a mounted file and never writes."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

from graphtoken._file import MountedFile, TokenUnavailableError, parse_cache

try:
    from O365.utils import BaseTokenBackend
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "O365":
        raise
    raise ImportError('graphtoken.o365 needs python-o365: pip install "graphtoken[o365]"', name="O365") from error

__all__ = ["MountedTokenBackend"]


class MountedTokenBackend(BaseTokenBackend):
    """The token in a mounted Secret, as a key of format O365 holds it.

    O365 puts a token into its session once and keeps sending it. This backend has it take the file's token when a
    request was refused that carried another: the refused request is sent again once, with the new token.

    Every look-up reads the file, so all of an account's threads see a swap at once. Whatever would change the cache
    or the file does nothing.
    """

    def __init__(self, token_path: Union[str, os.PathLike[str]], token_filename: str = "o365_token.txt") -> None:
        """``token_path`` is the directory where the Secret is mounted, ``token_filename`` the key in it."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.token_path = Path(token_path) / token_filename
        self._file = MountedFile(self.token_path, parse_cache)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.token_path)!r})"

    def search(self, credential_type: Any, target: Any = None, query: Any = None, **options: Any) -> Iterator[Any]:
        """Every look-up, by O365 or by MSAL, comes through here."""
        with self._lock:
            self.load_token()
            found = super().search(credential_type, target, query, **options)  # type: ignore[no-untyped-call]
            if credential_type == self.CredentialType.ACCESS_TOKEN:
                # Old versions of MSAL leave this to those who ask.
                return iter([entry for entry in found if int(entry["expires_on"]) > time.time()])
            return iter(list(found))

    def load_token(self) -> bool:
        """Takes over the file's content. False if there is none that could be used; why is logged once."""
        with self._lock:
            try:
                self._cache = self._file.current().cache
            except TokenUnavailableError:
                self._cache = {}
            return self.has_data

    def get_access_token(self, *, username: Optional[str] = None) -> dict[str, Any]:
        """The token, as MSAL stores it. Raises if there is none that lives: O365 would go on without any for ever."""
        entry = self._find(username)
        if entry is None:
            self._file.live()
            raise TokenUnavailableError(
                f"{self.token_path}: the token in it is for another account than this connection is for. "
                "Make a new Account, and leave out its username."
            )
        return entry

    def token_expiration_datetime(self, *, username: Optional[str] = None) -> Optional[dt.datetime]:
        """When the token expires, in local time; None without a token that lives."""
        entry = self._find(username)
        return None if entry is None else dt.datetime.fromtimestamp(int(entry["expires_on"]))

    def token_is_expired(self, *, username: Optional[str] = None) -> bool:
        """True without a token that lives, and when the request just refused carried another than the file has."""
        refused = _token_just_refused()
        entry = self._find(username)
        return entry is None or (refused is not None and refused != entry["secret"])

    def token_is_long_lived(self, *, username: Optional[str] = None) -> bool:
        """True while the token lives. O365 asks this before it asks for a fresh token."""
        return self._find(username) is not None

    def should_refresh_token(self, con: Optional[Any] = None, *, username: Optional[str] = None) -> bool:
        """False: "someone else did", so O365 takes the token from here and tries again."""
        return False

    def save_token(self, force: bool = False) -> bool:
        """Nothing is ever saved."""
        return False

    def delete_token(self) -> bool:
        """Nothing is ever deleted."""
        return False

    def remove_data(self, *, username: str) -> bool:
        """Nothing is ever removed."""
        return False

    def check_token(self) -> bool:
        """Whether there is a file that holds a token, alive or not."""
        return self.load_token()

    def modify(self, credential_type: Any, old_entry: Any, new_key_value_pairs: Any = None) -> None:
        """Nothing is ever added, changed or dropped, which MSAL does through here: the cache is what the file says."""

    def _find(self, username: Optional[str]) -> Optional[dict[str, Any]]:
        with self._lock:
            entry: Optional[dict[str, Any]] = super().get_access_token(username=username)
            return entry


def _token_just_refused() -> Optional[str]:
    """The token of the request whose refusal the caller is handling.

    O365 asks `token_is_expired` while it handles the HTTPError, but does not pass it on. What was sent cannot be
    known otherwise: another thread may have changed the session's header since.
    """
    request = getattr(getattr(sys.exc_info()[1], "response", None), "request", None)
    scheme, _, token = getattr(request, "headers", {}).get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else None
