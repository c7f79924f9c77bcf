"""The backend with the real python-o365, on a mounted file that is swapped, against a server that plays Graph."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
import requests
from O365 import Account, FileSystemTokenBackend, MSGraphProtocol
from O365.connection import TokenExpiredError
from support import CLIENT, TENANT, USER, WATCH, Graph, Mount, cache_file, oauth2_file, token, traces_of

from graphtoken import TokenUnavailableError
from graphtoken.o365 import MountedTokenBackend

FLOWS = ["public", "authorization", "credentials"]


def account_of(mount: Mount, graph: Graph, flow: str = "public", **options: Any) -> Account:
    # MSGraphProtocol takes no URL; a subclass with another attribute is how to point O365 elsewhere.
    protocol = type("LocalProtocol", (MSGraphProtocol,), {"_protocol_url": f"{graph.url}/"})
    credentials: Any = CLIENT if flow == "public" else (CLIENT, "unused")
    return Account(
        credentials,
        protocol=protocol(),
        auth_flow_type=flow,
        token_backend=MountedTokenBackend(token_path=mount.path),
        requests_delay=0,
        **{"tenant_id": TENANT, **options},
    )


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("user", [USER, None], ids=["delegated", "app-only"])
def test_a_swap_costs_one_refusal_and_the_account_goes_on(
    mount: Mount, graph: Graph, flow: str, user: str | None
) -> None:
    mount.put(cache_file(token(1), user=user))
    graph.accepted = token(1)
    account = account_of(mount, graph, flow)
    assert account.is_authenticated
    assert account.connection.get(graph.me).json()["answers"] == "1"

    mount.put(cache_file(token(2), user=user))
    graph.accepted = token(2)
    assert account.connection.get(graph.me).json()["answers"] == "2"
    assert account.connection.get(graph.me).json()["answers"] == "2"
    assert graph.seen == [(200, token(1)), (401, token(1)), (200, token(2)), (200, token(2))]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_token_that_is_still_accepted_is_sent_on(mount: Mount, graph: Graph, flow: str) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph, flow)
    account.connection.get(graph.me)
    mount.put(cache_file(token(2)))
    account.connection.get(graph.me)
    assert graph.seen == [(200, token(1))] * 2


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("refusal", [401, 403])
def test_a_refusal_of_the_files_token_is_not_tried_again(mount: Mount, graph: Graph, flow: str, refusal: int) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted, graph.answer = token(1), refusal
    account = account_of(mount, graph, flow)
    for _ in range(2):
        with pytest.raises(requests.HTTPError) as raised:
            account.connection.get(graph.me)
        assert raised.value.response.status_code == refusal
    assert graph.seen == [(refusal, token(1))] * 2


def test_a_403_after_a_swap_is_tried_again_once_at_most(mount: Mount, graph: Graph) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph)
    account.connection.get(graph.me)
    mount.put(cache_file(token(2)))
    graph.answer = 403
    with pytest.raises(requests.HTTPError):
        account.connection.get(graph.me)
    assert len(graph.seen) <= 3


@pytest.mark.parametrize("flow", FLOWS)
def test_a_token_revoked_before_it_expires_is_replaced_by_the_next_swap(mount: Mount, graph: Graph, flow: str) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph, flow)
    account.connection.get(graph.me)

    graph.accepted = token(2)
    with pytest.raises(requests.HTTPError) as raised:
        account.connection.get(graph.me)
    assert raised.value.response.status_code == 401
    mount.put(cache_file(token(2)))
    assert account.connection.get(graph.me).json()["answers"] == "2"
    assert graph.seen == [(200, token(1)), (401, token(1)), (401, token(1)), (200, token(2))]


def test_eight_threads_go_through_twenty_swaps_without_an_error(mount: Mount, graph: Graph) -> None:
    threads, swaps = 8, 20
    mount.put(cache_file(token(0)))
    graph.accepted = token(0)
    account = account_of(mount, graph)
    answered = dict.fromkeys(range(threads), -1)
    errors: list[BaseException] = []
    changed, stop = threading.Condition(), threading.Event()

    def work(worker: int) -> None:
        try:
            while not stop.is_set():
                number = int(account.connection.get(graph.me).json()["answers"])
                with changed:
                    answered[worker] = number
                    changed.notify()
        except Exception as error:
            with changed:
                errors.append(error)
                changed.notify()

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(threads)]
    for thread in workers:
        thread.start()
    try:
        for number in range(swaps + 1):
            if number:
                mount.put(cache_file(token(number)))
                graph.accepted = token(number)
            with changed:
                changed.wait_for(lambda n=number: errors or set(answered.values()) == {n}, timeout=30)  # type: ignore[misc]
            assert errors == []
            assert set(answered.values()) == {number}
    finally:
        stop.set()
        for thread in workers:
            thread.join()
    assert errors == []


def test_a_file_that_vanishes_in_mid_swap_is_looked_for_once_more(mount: Mount, graph: Graph) -> None:
    mount.put(cache_file(token(1)))
    backend = MountedTokenBackend(mount.path)
    WATCH.vanishes = 1
    assert backend.get_access_token()["secret"] == token(1)
    assert WATCH.opens == 2


def test_a_file_that_stays_away_is_looked_for_twice_and_no_more(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    backend = MountedTokenBackend(mount.path)
    WATCH.vanishes = 100
    assert not backend.load_token()
    assert WATCH.opens == 2


@pytest.mark.parametrize("flow", FLOWS)
def test_without_a_file_a_request_says_what_to_check_and_works_once_there_is_one(
    mount: Mount, graph: Graph, flow: str
) -> None:
    account = account_of(mount, graph, flow)
    assert not account.is_authenticated
    with pytest.raises(TokenUnavailableError) as raised:
        account.connection.get(graph.me)
    for hint in (str(mount / "o365_token.txt"), "subPath", "kubectl describe graphtoken"):
        assert hint in str(raised.value)
    assert graph.seen == []

    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    assert account.is_authenticated
    assert account.connection.get(graph.me).json()["answers"] == "1"


@pytest.mark.parametrize("flow", FLOWS)
def test_an_expired_token_is_not_sent_by_a_new_account(mount: Mount, graph: Graph, flow: str) -> None:
    mount.put(cache_file(token(1), lives=-60))
    account = account_of(mount, graph, flow)
    assert not account.is_authenticated
    with pytest.raises(TokenUnavailableError, match=r"expired at 20.*kubectl describe graphtoken"):
        account.connection.get(graph.me)
    assert graph.seen == []


@pytest.mark.parametrize("flow", FLOWS)
def test_an_account_outlives_an_expired_token(
    mount: Mount, graph: Graph, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph, flow)
    account.connection.get(graph.me)

    later(monkeypatch, 7200)
    graph.accepted = token(2)
    with pytest.raises((TokenExpiredError, TokenUnavailableError)):
        account.connection.get(graph.me)
    assert not account.is_authenticated
    mount.put(cache_file(token(2)))
    assert account.is_authenticated
    assert account.connection.get(graph.me).json()["answers"] == "2"


def test_nothing_that_changes_a_token_changes_the_file_or_the_cache(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    backend = MountedTokenBackend(mount.path)
    before = backend.get_access_token()
    cache = backend.serialize()
    assert not backend.save_token()
    assert not backend.save_token(force=True)
    assert not backend.delete_token()
    assert not backend.remove_data(username=USER)
    backend.add(
        {
            "client_id": CLIENT,
            "scope": ["User.Read"],
            "token_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
            "response": {"access_token": token(2), "expires_in": 3600},
        }
    )
    backend.remove_at(before)  # type: ignore[no-untyped-call]
    assert backend.get_access_token() == before
    assert backend.serialize() == cache
    assert backend.check_token()


def test_the_watch_would_see_a_write(mount: Mount) -> None:
    """What the fixture `mount` asserts after each test is worth something."""
    mount.put(cache_file(token(1)))
    backend: Any = FileSystemTokenBackend(  # type: ignore[no-untyped-call]
        token_path=mount.path, token_filename="o365_token.txt"
    )
    backend.load_token()
    with contextlib.suppress(PermissionError):  # which root does not get
        backend.save_token(force=True)
    assert WATCH.writes == [f"open {mount / 'o365_token.txt'}"]
    WATCH.writes.clear()


def test_a_refresh_token_in_the_file_is_never_redeemed(mount: Mount, graph: Graph) -> None:
    mount.put(cache_file(token(1), refresh_token=token(99)))
    graph.accepted = token(2)
    account = account_of(mount, graph)
    with pytest.raises(requests.HTTPError):
        account.connection.get(graph.me)
    assert graph.seen == [(401, token(1))]
    assert account.connection.token_backend.get_refresh_token() is None
    # That nobody was asked for a token is what the fixture only_loopback asserts.


def test_the_tenant_need_not_be_the_files(mount: Mount, graph: Graph) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph, tenant_id="contoso.example")
    assert account.is_authenticated
    assert account.connection.get(graph.me).status_code == 200


def test_a_token_of_another_account_is_not_taken(mount: Mount, graph: Graph) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)
    account = account_of(mount, graph)
    account.connection.get(graph.me)
    mount.put(cache_file(token(2), user="somebody.else@contoso.example"))
    graph.accepted = token(2)
    with pytest.raises(requests.HTTPError):
        account.connection.get(graph.me)
    assert not account.is_authenticated
    with pytest.raises(TokenUnavailableError, match="another account"):
        account.connection.update_session_auth_header()
    assert graph.seen == [(200, token(1)), (401, token(1))]


def test_an_error_that_is_none_of_our_business_expires_nothing(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    backend = MountedTokenBackend(mount.path)
    assert not backend.token_is_expired()
    for error in (ValueError("x"), requests.HTTPError("x"), requests.HTTPError("x", response=requests.Response())):
        try:
            raise error
        except Exception:
            assert not backend.token_is_expired()


def test_it_tells_when_the_token_expires(mount: Mount) -> None:
    backend = MountedTokenBackend(mount.path)
    assert backend.token_expiration_datetime() is None
    mount.put(cache_file(token(1), lives=3600))
    when = backend.token_expiration_datetime()
    assert when is not None
    assert abs(when.timestamp() - time.time() - 3600) < 60


def test_a_file_of_another_format_is_named(mount: Mount) -> None:
    mount.put(oauth2_file(token(1)))
    with pytest.raises(TokenUnavailableError, match=r"format OAuth2.*whose format is O365") as raised:
        MountedTokenBackend(mount.path).get_access_token()
    assert token(1) not in traces_of(raised.value)


def test_its_repr_tells_the_path_only(mount: Mount) -> None:
    mount.put(cache_file(token(1)))
    backend = MountedTokenBackend(mount.path)
    backend.load_token()
    assert repr(backend) == f"MountedTokenBackend('{mount / 'o365_token.txt'}')"
