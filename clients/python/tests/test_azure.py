"""The credentials with the real azure-core, and with what msgraph-sdk asks for its token."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any, Union

import pytest
from azure.core.credentials import SupportsTokenInfo, TokenCredential
from azure.core.credentials_async import AsyncSupportsTokenInfo, AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline import AsyncPipeline, Pipeline
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy, BearerTokenCredentialPolicy
from azure.core.pipeline.transport import AsyncioRequestsTransport, HttpRequest, RequestsTransport
from kiota_authentication_azure.azure_identity_access_token_provider import AzureIdentityAccessTokenProvider
from support import Graph, Mount, cache_file, oauth2_file, token, traces_of

from graphtoken import TokenUnavailableError
from graphtoken.azure import AsyncMountedTokenCredential, MountedTokenCredential, MountedTokenError

SCOPE = "https://graph.microsoft.com/.default"
Credential = Union[MountedTokenCredential, AsyncMountedTokenCredential]
# Statuses of as many requests as the second argument says, one after the other in one pipeline.
Ask = Callable[[Graph, list[Callable[[], None]]], list[int]]


def sync_client(mount: Mount) -> Ask:
    def ask(graph: Graph, before: list[Callable[[], None]]) -> list[int]:
        policy = BearerTokenCredentialPolicy(MountedTokenCredential(mount / "o365_token.txt"), SCOPE)
        statuses = []
        with Pipeline(RequestsTransport(), [policy]) as pipeline:
            for change in before:
                change()
                response = pipeline.run(HttpRequest("GET", graph.me), enforce_https=False)
                statuses.append(response.http_response.status_code)
        return statuses

    return ask


def async_client(mount: Mount) -> Ask:
    async def ask_all(graph: Graph, before: list[Callable[[], None]]) -> list[int]:
        policy: Any = AsyncBearerTokenCredentialPolicy(AsyncMountedTokenCredential(mount / "o365_token.txt"), SCOPE)
        statuses = []
        async with AsyncPipeline(AsyncioRequestsTransport(), [policy]) as pipeline:
            for change in before:
                change()
                response = await pipeline.run(HttpRequest("GET", graph.me), enforce_https=False)
                statuses.append(response.http_response.status_code)
        return statuses

    return lambda graph, before: asyncio.run(ask_all(graph, before))


CLIENTS = pytest.mark.parametrize("client", [sync_client, async_client])


def current(credential: Credential) -> str:
    if isinstance(credential, MountedTokenCredential):
        return credential.get_token(SCOPE).token
    return asyncio.run(credential.get_token(SCOPE)).token


CREDENTIALS = pytest.mark.parametrize("kind", [MountedTokenCredential, AsyncMountedTokenCredential])


@CLIENTS
def test_a_swap_is_followed_at_the_next_request(mount: Mount, graph: Graph, client: Callable[[Mount], Ask]) -> None:
    def publish(number: int) -> Callable[[], None]:
        def change() -> None:
            mount.put(cache_file(token(number)))
            graph.accepted = token(number)

        return change

    assert client(mount)(graph, [publish(1), lambda: None, publish(2), publish(3)]) == [200] * 4
    assert graph.seen == [(200, token(n)) for n in (1, 1, 2, 3)]


@CLIENTS
def test_a_token_revoked_before_it_expires_is_replaced_by_the_next_swap(
    mount: Mount, graph: Graph, client: Callable[[Mount], Ask]
) -> None:
    mount.put(cache_file(token(1)))
    graph.accepted = token(1)

    def revoke() -> None:
        graph.accepted = token(2)

    def publish() -> None:
        mount.put(cache_file(token(2)))

    assert client(mount)(graph, [lambda: None, revoke, publish]) == [200, 401, 200]


@CLIENTS
def test_a_demand_for_claims_is_not_followed_for_ever(
    mount: Mount, graph: Graph, client: Callable[[Mount], Ask]
) -> None:
    claims = base64.b64encode(b'{"access_token":{}}').decode()
    graph.challenge = f'Bearer realm="", error="insufficient_claims", claims="{claims}"'
    mount.put(cache_file(token(1)))
    assert client(mount)(graph, [lambda: None]) == [401]
    assert len(graph.seen) <= 2


@CREDENTIALS
def test_what_msgraph_sdk_asks_gets_the_current_token(mount: Mount, kind: type[Credential]) -> None:
    path = mount / "o365_token.txt"
    provider = AzureIdentityAccessTokenProvider(kind(path), None, [SCOPE])

    def authorize() -> str:
        return asyncio.run(provider.get_authorization_token("https://graph.microsoft.com/v1.0/me"))

    mount.put(cache_file(token(1)))
    assert authorize() == token(1)
    mount.put(cache_file(token(2)))
    assert authorize() == token(2)


@CREDENTIALS
def test_both_formats_give_token_and_expiry(mount: Mount, kind: type[Credential]) -> None:
    for data in (cache_file(token(1), lives=1000), oauth2_file(token(1), lives=1000)):
        mount.put(data)
        credential = MountedTokenCredential(mount / "o365_token.txt")
        given, info = credential.get_token(SCOPE), credential.get_token_info("User.Read", "Mail.Read")
        assert given.token == info.token == token(1)
        assert str(given.expires_on).encode() in data
        assert info.expires_on == given.expires_on
        assert current(kind(mount / "o365_token.txt")) == token(1)


def test_they_are_what_azure_core_calls_credentials(mount: Mount) -> None:
    with MountedTokenCredential(mount / "x") as credential:
        assert isinstance(credential, TokenCredential)
        assert isinstance(credential, SupportsTokenInfo)

    async def enter() -> None:
        async with AsyncMountedTokenCredential(mount / "x") as credential:
            assert isinstance(credential, AsyncTokenCredential)
            assert isinstance(credential, AsyncSupportsTokenInfo)

    asyncio.run(enter())


def for_the_type_checker(credential: MountedTokenCredential, twin: AsyncMountedTokenCredential) -> None:
    """Never called: mypy finds out whether the credentials fit the protocols."""
    providers: list[Union[TokenCredential, SupportsTokenInfo]] = [credential]
    token_credential: TokenCredential = credential
    token_info: SupportsTokenInfo = credential
    async_credential: AsyncTokenCredential = twin
    async_info: AsyncSupportsTokenInfo = twin
    del providers, token_credential, token_info, async_credential, async_info


@CREDENTIALS
def test_without_a_token_the_error_says_what_to_check(mount: Mount, kind: type[Credential]) -> None:
    credential = kind(mount / "o365_token.txt")
    with pytest.raises(MountedTokenError, match=r"subPath.*kubectl describe graphtoken") as raised:
        current(credential)
    assert isinstance(raised.value, ClientAuthenticationError)
    assert isinstance(raised.value, TokenUnavailableError)
    assert str(mount / "o365_token.txt") in str(raised.value)

    mount.put(cache_file(token(1), lives=-1))
    with pytest.raises(MountedTokenError, match="expired at"):
        current(credential)
    mount.put(cache_file(token(2)))
    assert current(credential) == token(2)


def test_neither_error_nor_repr_shows_a_token(mount: Mount) -> None:
    mount.put(cache_file(token(1))[:-9])
    credential = MountedTokenCredential(mount / "o365_token.txt")
    with pytest.raises(MountedTokenError) as raised:
        credential.get_token(SCOPE)
    assert token(1) not in traces_of(raised.value)
    mount.put(cache_file(token(1)))
    credential.get_token(SCOPE)
    assert repr(credential) == f"MountedTokenCredential('{mount / 'o365_token.txt'}')"
