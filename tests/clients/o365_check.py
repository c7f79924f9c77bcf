"""Reads a mounted token file with the real O365 package, makes one request, and reports what came of it.

    python o365_check.py --token-dir /mnt/token --client-id ID --tenant-id GUID --api-url http://127.0.0.1:8080

One JSON object goes to stdout. A token never does: its SHA-256 stands for it.

Network: for a token that is in the cache and alive, O365 talks to the API only. It builds its MSAL client, whose
constructor fetches the tenant's OpenID configuration from login.microsoftonline.com, no sooner than `authenticate()`
or a refresh; a refresh happens when the API answers 401 or 403, the token is past its `expires_on`, and the file has a
refresh token (or the flow is `credentials`). An audit hook (loopback.py) refuses every address but loopback, and the
host is reported under `refused_hosts`, so such an attempt shows instead of leaving the machine.
"""

import argparse
import json
import logging
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out
from loopback import REFUSED_HOSTS, bearer_sha256, sha256  # noqa: E402  (before what it is to watch)

import msal  # noqa: E402
from O365 import Account, FileSystemTokenBackend  # noqa: E402
from o365_common import protocol_at, watch  # noqa: E402
from requests import RequestException, Response  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Uses a mounted token file as a user of python-o365 would.")
    parser.add_argument("--token-dir", required=True, help="the mounted directory")
    parser.add_argument("--token-file", default="o365_token.txt", help="the file in it")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--tenant-id", required=True, help="the GUID that the file calls realm")
    parser.add_argument("--api-url", required=True, help="the Graph endpoint, without /v1.0")
    parser.add_argument("--path", default="/me", help="what to ask for, under /v1.0")
    parser.add_argument("--flow", choices=["public", "authorization", "credentials"], default="public")
    parser.add_argument("--scopes", nargs="*", help="also ask plain MSAL for these, from the cache alone")
    parser.add_argument("--environment", default="login.microsoftonline.com", help="the authority in the file")
    return parser.parse_args()


def account_of(args: argparse.Namespace) -> Account:
    """The account as a pod builds it, except that Graph is where `--api-url` says."""
    # A confidential client's secret is never used for a token that is in the cache, but must be there.
    credentials = args.client_id if args.flow == "public" else (args.client_id, "unused")
    return Account(
        credentials,
        protocol=protocol_at(args.api_url),
        auth_flow_type=args.flow,
        tenant_id=args.tenant_id,
        token_backend=FileSystemTokenBackend(token_path=args.token_dir, token_filename=args.token_file),
    )


class OfflineAuthority:
    """An HTTP client for MSAL that knows the OpenID configuration by heart and can do nothing else.

    MSAL's constructor asks for that configuration even when the token is in the cache; `instance_discovery=False`
    only spares the other request, the one that checks the host.
    """

    def __init__(self, authority: str) -> None:
        self.authority = authority

    def get(self, url: str, **_kwargs) -> Response:
        if not url.endswith("/v2.0/.well-known/openid-configuration"):
            raise ConnectionRefusedError(f"MSAL asked for {url}")
        response = Response()
        response.status_code = 200
        endpoints = {
            "issuer": f"{self.authority}/v2.0",
            "authorization_endpoint": f"{self.authority}/oauth2/v2.0/authorize",
            "token_endpoint": f"{self.authority}/oauth2/v2.0/token",
        }
        response._content = json.dumps(endpoints).encode()
        return response

    def post(self, url: str, **_kwargs) -> Response:
        raise ConnectionRefusedError(f"MSAL did not find the token, and asked {url} for one")

    def close(self) -> None:
        pass


def msal_token(args: argparse.Namespace, account: Account) -> str | None:
    """What plain MSAL finds in the same cache; None also when under five minutes are left."""
    authority = f"https://{args.environment}/{args.tenant_id}"
    options = {
        "authority": authority,
        "instance_discovery": False,
        "http_client": OfflineAuthority(authority),
        "token_cache": account.con.token_backend,
    }
    if account.con.token_backend.get_account():
        app = msal.PublicClientApplication(args.client_id, **options)
        accounts = app.get_accounts()
        result = app.acquire_token_silent(args.scopes, account=accounts[0]) if accounts else None
    else:
        app = msal.ConfidentialClientApplication(args.client_id, client_credential="unused", **options)
        try:
            result = app.acquire_token_for_client(args.scopes)
        except ConnectionRefusedError:
            result = None
    return (result or {}).get("access_token")


def check(args: argparse.Namespace) -> dict:
    report = {
        "is_authenticated": False,
        "request_status": None,
        "sent_bearer_sha256": None,
        "upn": None,
        "requests": [],
        "msal_sha256": None,
        "error": None,
    }

    def record(response: Response) -> None:
        sent = bearer_sha256(response.request.headers.get("Authorization"))
        report["requests"].append({"status": response.status_code, "sent_bearer_sha256": sent})
        report["request_status"], report["sent_bearer_sha256"] = response.status_code, sent

    try:
        account = account_of(args)
        report["is_authenticated"] = account.is_authenticated
        watch(account.connection, record)
        if args.scopes:
            report["msal_sha256"] = sha256(msal_token(args, account))
        response = account.connection.get(f"{args.api_url.rstrip('/')}/v1.0{args.path}")
        report["upn"] = response.json().get("userPrincipalName")
    except (RequestException, OSError, ValueError, RuntimeError, KeyError) as error:
        # The name only: a message may quote what was read.
        report["error"] = type(error).__name__
    report["refused_hosts"] = REFUSED_HOSTS
    return report


if __name__ == "__main__":
    # The report tells what failed; at DEBUG, O365's log would hold the token.
    logging.disable(logging.CRITICAL)
    print(json.dumps(check(parse_args())))
