"""Credentials for azure-core's clients and msgraph-sdk that follow a mounted file."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Optional

from graphtoken._file import Content, MountedFile, StrPath, TokenUnavailableError, parse_any

try:
    from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
    from azure.core.exceptions import ClientAuthenticationError
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "azure":
        raise
    raise ImportError('graphtoken.azure needs azure-core: pip install "graphtoken[azure]"', name="azure") from error

__all__ = ["AsyncMountedTokenCredential", "MountedTokenCredential", "MountedTokenError"]

# azure-core keeps a token until its refresh_on, plus up to a minute that it picks at random. A moment long past makes
# it ask again before every request, which costs one read of a small file. Zero would count as none.
_ASK_AGAIN = 1


class MountedTokenError(ClientAuthenticationError, TokenUnavailableError):
    """The mounted file gives no token that could be used; as azure-core's users would catch it."""


class _Credential:
    def __init__(self, path: StrPath) -> None:
        """``path`` is a key of the Secret whose format is O365 or OAuth2: its content tells which."""
        self._file = MountedFile(path, parse_any)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._file.path!r})"

    def _content(self) -> Content:
        try:
            return self._file.live()
        except TokenUnavailableError as error:
            problem = str(error)
        raise MountedTokenError(problem)

    def _token(self) -> AccessToken:
        content = self._content()
        return AccessToken(content.token, content.expires_on)

    def _token_info(self) -> AccessTokenInfo:
        content = self._content()
        return AccessTokenInfo(content.token, content.expires_on, refresh_on=_ASK_AGAIN)


class MountedTokenCredential(_Credential):
    """A TokenCredential: gives the token that is in the mounted file now.

    What is asked for (scopes, claims, tenant) makes no difference: the file has one token.
    """

    def get_token(
        self,
        *scopes: str,
        claims: Optional[str] = None,
        tenant_id: Optional[str] = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        return self._token()

    def get_token_info(self, *scopes: str, options: Optional[TokenRequestOptions] = None) -> AccessTokenInfo:
        return self._token_info()

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> MountedTokenCredential:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        self.close()


class AsyncMountedTokenCredential(_Credential):
    """An AsyncTokenCredential: gives the token that is in the mounted file now.

    The file is read in the event loop: it is small, and in memory (the kubelet keeps Secrets in a tmpfs).
    """

    async def get_token(
        self,
        *scopes: str,
        claims: Optional[str] = None,
        tenant_id: Optional[str] = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        return self._token()

    async def get_token_info(self, *scopes: str, options: Optional[TokenRequestOptions] = None) -> AccessTokenInfo:
        return self._token_info()

    async def close(self) -> None:
        """There is nothing to close."""

    async def __aenter__(self) -> AsyncMountedTokenCredential:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        await self.close()
