"""What any mounted file is read like, whoever reads it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import USER, WATCH, Mount, cache_file, oauth2_file, token, traces_of

from graphtoken import TokenUnavailableError
from graphtoken._file import MountedFile, parse_any


def changed(**members: Any) -> bytes:
    """A cache whose access token has these members instead; None takes one away."""
    content = json.loads(cache_file(token(7)))
    (entry,) = content["AccessToken"].values()
    for name, value in members.items():
        entry[name] = value
        if value is None:
            del entry[name]
    return json.dumps(content).encode()


def oauth2(**members: Any) -> bytes:
    return json.dumps(json.loads(oauth2_file(token(7))) | members).encode()


MALFORMED = {
    "empty": (b"", "empty"),
    "torn": (cache_file(token(7))[:200], "not JSON, from line 1"),
    "the token alone": (token(7).encode(), "not JSON"),
    "not UTF-8": (b'{"access_token": "' + token(7).encode() + b'\xff"}', "not JSON"),
    "too deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "something else": (json.dumps({"refresh_token": token(7)}).encode(), "neither"),
    "no entry": (b'{"AccessToken": {}}', "no entry"),
    "a section that is a list": (b'{"AccessToken": {}, "Account": []}', "Account"),
    "an entry that is text": (b'{"AccessToken": {"' + token(7).encode() + b'": "x"}}', "AccessToken"),
    "no secret": (changed(secret=None), "secret"),
    "a line break in the token": (changed(secret=token(7) + "\n"), "secret"),
    "no expiry": (changed(expires_on=None), "expires_on"),
    "an ISO date": (changed(expires_on="2030-01-01T00:00:00Z"), "expires_on"),
    "a time beyond dates": (changed(expires_on="9" * 12), "expires_on"),
    "no credential_type": (changed(credential_type=None), "credential_type"),
    "OAuth2 without a time": (oauth2(expires_at=None), "expires_at"),
    "OAuth2 with a time as text": (oauth2(expires_at="2030-01-01T00:00:00Z"), "expires_at"),
    "OAuth2 with no number": (oauth2(expires_at=float("nan")), "expires_at"),
    "OAuth2 with infinity": (oauth2(expires_at=float("inf")), "expires_at"),
    "OAuth2 with true": (oauth2(expires_at=True), "expires_at"),
    "OAuth2 with no text": (oauth2(access_token=[token(7)]), "access_token"),
}


def file_of(mount: Mount) -> MountedFile:
    return MountedFile(mount / "o365_token.txt", parse_any)


@pytest.mark.parametrize(("data", "problem"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_named_and_never_quoted(
    mount: Mount, data: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    mount.put(data)
    with pytest.raises(TokenUnavailableError) as raised:
        file_of(mount).live()
    assert str(mount / "o365_token.txt") in str(raised.value)
    assert problem in str(raised.value)
    assert token(7).partition(".")[0] not in traces_of(raised.value)
    assert problem in caplog.text


def test_a_malformed_file_does_not_displace_a_token_that_lives(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mount.put(cache_file(token(1)))
    file = file_of(mount)
    assert file.live().token == token(1)
    mount.put(b"{")
    assert file.live().token == token(1)
    assert file.live().token == token(1)
    assert [r.levelname for r in caplog.records] == ["WARNING"], "once, not at every read"
    assert "is used until it expires" in caplog.text

    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    with pytest.raises(TokenUnavailableError, match="not JSON"):
        file.live()
    mount.put(cache_file(token(2)))
    assert file.live().token == token(2)


def test_a_file_that_is_gone_does_not_displace_a_token_that_lives(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    file = file_of(mount)
    assert file.live().token == token(1)
    WATCH.vanishes = 2
    assert file.live().token == token(1)


def test_a_problem_that_comes_back_is_logged_again(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    file = file_of(mount)
    for data in (cache_file(token(1)), b"{", cache_file(token(1)), b"{"):
        mount.put(data)
        file.live()
    assert len(caplog.records) == 2


def test_an_expired_token_in_the_file_displaces_one_that_lives(mount: Mount) -> None:
    """The file is the truth, as long as it can be read."""
    mount.put(cache_file(token(1)))
    file = file_of(mount)
    file.live()
    mount.put(cache_file(token(2), lives=-1))
    with pytest.raises(TokenUnavailableError, match="expired at"):
        file.live()


def test_a_directory_and_a_file_in_the_wrong_place_are_told_apart(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    with pytest.raises(TokenUnavailableError, match="it is a directory"):
        MountedFile(mount.path, parse_any).live()
    with pytest.raises(TokenUnavailableError, match="directory is a file"):
        MountedFile(mount / "o365_token.txt" / "o365_token.txt", parse_any).live()


def test_its_reprs_show_no_token(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    file = file_of(mount)
    assert token(1) not in repr(file.live())
    assert token(1) not in repr(file)


def test_the_two_formats_are_told_apart_by_content(mount: Mount) -> None:
    for data in (cache_file(token(1)), cache_file(token(1), user=None), oauth2_file(token(1))):
        mount.put(data)
        content = file_of(mount).live()
        assert content.token == token(1)
        assert abs(content.expires_on - time.time() - 3600) < 60


def test_a_refresh_token_is_not_kept(mount: Mount) -> None:
    mount.put(cache_file(token(1), user=USER, refresh_token="0.refresh"))
    assert "0.refresh" not in json.dumps(file_of(mount).live().cache)


def test_readers_in_the_middle_of_swaps_get_a_token_that_was_there(mount: Mount) -> None:
    file = file_of(mount)
    mount.put(cache_file(token(0)))
    # Each reader's first read must find a file; only then are there tokens to go on with.
    file.live()
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        last = 0
        try:
            while not stop.is_set():
                number = int(file.live().token.rpartition(".")[2])
                assert number >= last, "an older token came back"
                last = number
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(1, 201):
        mount.put(cache_file(token(number)))
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert file.live().token == token(200)


def test_a_path_may_be_text_or_a_path(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    path: Path = mount / "o365_token.txt"
    assert MountedFile(path, parse_any).live() == MountedFile(str(path), parse_any).live()
