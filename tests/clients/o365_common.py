"""What the checks with python-o365 share, for its 2.0 and 2.1 alike. Import loopback first."""

from collections.abc import Callable

from O365 import Connection, MSGraphProtocol
from requests import Response, Session

API_URL = "https://graph.microsoft.com"


def protocol_at(api_url: str) -> MSGraphProtocol:
    """Microsoft Graph's protocol, spoken elsewhere.

    MSGraphProtocol takes no URL argument: it passes its class attribute on. So a subclass with another attribute is
    how to point O365 elsewhere, and nothing else of the protocol changes.
    """
    return type("ApiProtocol", (MSGraphProtocol,), {"_protocol_url": api_url.rstrip("/") + "/"})()


def watch(connection: Connection, record: Callable[[Response], None]) -> None:
    """Hooks into every session that is made. One made beforehand would be treated differently."""
    get_session = connection.get_session

    def watched_session(**kwargs) -> Session:
        session = get_session(**kwargs)
        session.hooks["response"].append(lambda response, *_args, **_kwargs: record(response))
        return session

    connection.get_session = watched_session
