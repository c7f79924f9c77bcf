"""Finds the token in a mounted O365 file with MSAL alone, makes one request with it, and reports what came of it.

    python msal_check.py --token-dir /var/run/graph --client-id ID --tenant-id GUID --scopes Mail.Read User.Read

One JSON object goes to stdout. A token never does: its SHA-256 stands for it. Ends with 0 only if the API answered 200.

Network: MSAL's constructor fetches the tenant's OpenID configuration from the authority, even if the token is in the
cache. It takes the tenant's GUID from there, so a domain finds the token too, and `common` does not. After that it asks
nobody when it finds the token. When it does not, for another tenant or scope or in the token's last five minutes, it
asks for the authority's aliases. What it asked for is in `authority_requests`.
"""

import argparse
import json
import logging
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out
from loopback import REFUSED_HOSTS, bearer_sha256, sha256  # noqa: E402  (before what it is to watch)

import msal  # noqa: E402
import requests  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Uses a mounted token cache as a user of MSAL would.")
    parser.add_argument("--token-dir", required=True, help="the mounted directory")
    parser.add_argument("--token-file", default="o365_token.txt", help="the file in it")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--tenant-id", required=True, help="the GUID that the file calls realm, or the tenant's domain")
    parser.add_argument(
        "--scopes", nargs="+", required=True, help="what the token was granted; app-only: .default's URI"
    )
    parser.add_argument("--environment", default="login.microsoftonline.com", help="the authority in the file")
    parser.add_argument("--authority-url", help="where the authority is; default: https:// and the environment")
    parser.add_argument("--api-url", default="https://graph.microsoft.com", help="the Graph endpoint, without /v1.0")
    parser.add_argument("--path", default="/me", help="what to ask for, under /v1.0")
    return parser.parse_args()


class Authority(requests.Session):
    """What MSAL talks to its authority through: it counts, and can be sent to another address."""

    def __init__(self, environment: str, address: str | None) -> None:
        super().__init__()
        self.environment = f"https://{environment}/"
        self.address = address.rstrip("/") + "/" if address else None
        self.asked: list[str] = []

    def request(self, method: str, url: str, *args, **kwargs) -> requests.Response:
        self.asked.append(url)
        if self.address and url.startswith(self.environment):
            url = self.address + url.removeprefix(self.environment)
        return super().request(method, url, *args, **kwargs)


def token_of(args: argparse.Namespace, authority: Authority) -> str | None:
    """As the MSAL manual tells, with the file's content in the cache."""
    cache = msal.SerializableTokenCache()
    with open(os.path.join(args.token_dir, args.token_file), encoding="utf-8") as file:
        cache.deserialize(file.read())
    options = {
        "authority": f"https://{args.environment}/{args.tenant_id}",
        "token_cache": cache,
        "http_client": authority,
    }
    if any(cache.search(cache.CredentialType.ACCOUNT)):
        app = msal.PublicClientApplication(args.client_id, **options)
        accounts = app.get_accounts()
        result = app.acquire_token_silent(args.scopes, account=accounts[0]) if accounts else None
    else:
        app = msal.ConfidentialClientApplication(args.client_id, client_credential="unused", **options)
        result = app.acquire_token_for_client(args.scopes)
    return (result or {}).get("access_token")


def check(args: argparse.Namespace) -> dict:
    report: dict[str, Any] = {
        "msal_sha256": None,
        "authority_requests": [],
        "request_status": None,
        "sent_bearer_sha256": None,
        "upn": None,
        "error": None,
    }
    authority = Authority(args.environment, args.authority_url)
    try:
        token = token_of(args, authority)
        report["msal_sha256"] = sha256(token)
        if token:
            headers = {"Authorization": f"Bearer {token}"}
            response = requests.get(f"{args.api_url.rstrip('/')}/v1.0{args.path}", headers=headers, timeout=30)
            report["request_status"] = response.status_code
            report["sent_bearer_sha256"] = bearer_sha256(response.request.headers.get("Authorization"))
            report["upn"] = response.json().get("userPrincipalName")
    except (requests.RequestException, msal.exceptions.MsalError, OSError, ValueError, RuntimeError, KeyError) as error:
        # The name only: a message may quote what was read.
        report["error"] = type(error).__name__
    report["authority_requests"] = authority.asked
    report["refused_hosts"] = REFUSED_HOSTS
    return report


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    outcome = check(parse_args())
    print(json.dumps(outcome))
    sys.exit(0 if outcome["request_status"] == 200 else 1)
