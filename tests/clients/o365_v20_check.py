"""Reads a mounted oauth2.json with the real python-o365 2.0, makes one request, and reports what came of it.

    python o365_v20_check.py --token-dir /var/run/graph --client-id ID

One JSON object goes to stdout. A token never does: its SHA-256 stands for it. Ends with 0 only if the API answered 200.

O365 2.0 signs in with requests-oauthlib instead of MSAL: its token file is the dict that the token endpoint answered,
with a numeric `expires_at`. It takes the dict for expired in its last minute, and with `expires_in` in it the session
would count from the moment of reading; the file holds none.
"""

import argparse
import json
import logging
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out
from loopback import REFUSED_HOSTS, bearer_sha256  # noqa: E402  (before what it is to watch)

from O365 import Account, FileSystemTokenBackend  # noqa: E402
from o365_common import API_URL, protocol_at, watch  # noqa: E402
from oauthlib.oauth2 import OAuth2Error  # noqa: E402
from requests import RequestException, Response  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Uses a mounted token file as a user of python-o365 2.0 would.")
    parser.add_argument("--token-dir", required=True, help="the mounted directory")
    parser.add_argument("--token-file", default="oauth2.json", help="the file in it")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--api-url", default=API_URL, help="the Graph endpoint, without /v1.0")
    parser.add_argument("--path", default="/me", help="what to ask for, under /v1.0")
    parser.add_argument("--flow", choices=["public", "authorization"], default="public")
    return parser.parse_args()


def check(args: argparse.Namespace) -> dict:
    report: dict[str, Any] = {
        "is_authenticated": False,
        "expires_at": None,
        "request_status": None,
        "sent_bearer_sha256": None,
        "upn": None,
        "error": None,
    }

    def record(response: Response) -> None:
        report["request_status"] = response.status_code
        report["sent_bearer_sha256"] = bearer_sha256(response.request.headers.get("Authorization"))

    try:
        # Here too the public flow takes the id alone, and the other a secret that is never used.
        account = Account(
            args.client_id if args.flow == "public" else (args.client_id, "unused"),
            protocol=protocol_at(args.api_url),
            auth_flow_type=args.flow,
            token_backend=FileSystemTokenBackend(token_path=args.token_dir, token_filename=args.token_file),
        )
        report["is_authenticated"] = account.is_authenticated
        report["expires_at"] = account.con.token_backend.token.get("expires_at")
        watch(account.connection, record)
        response = account.connection.get(f"{args.api_url.rstrip('/')}/v1.0{args.path}")
        report["upn"] = response.json().get("userPrincipalName")
    except (RequestException, OAuth2Error, OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        # The name only: a message may quote what was read.
        report["error"] = type(error).__name__
    report["refused_hosts"] = REFUSED_HOSTS
    return report


if __name__ == "__main__":
    # At DEBUG, O365's log would hold the token.
    logging.disable(logging.CRITICAL)
    outcome = check(parse_args())
    print(json.dumps(outcome))
    sys.exit(0 if outcome["is_authenticated"] and outcome["request_status"] == 200 else 1)
