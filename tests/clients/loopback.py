"""Keeps a check on loopback. Import it before anything that may open a connection:

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves the script's folder out
    import loopback

An audit hook, which cannot be taken out again, refuses every other address, and every name that is not one of
loopback's, before it is asked for. What was refused is in `REFUSED_HOSTS`, so an attempt shows instead of leaving the
machine.

A pod's `hostAliases` can give loopback the name of a real service. Such a name, one that /etc/hosts knows and puts
nowhere else, is let through; the address that it turns into is looked at once more when it is connected to.
"""

import hashlib
import ipaddress
import os
import sys

HOSTS = "/etc/hosts"
REFUSED_HOSTS: list[str] = []


def refuse_all_but_loopback(event: str, args: tuple) -> None:
    """The audit hook."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if isinstance(host, bytes | bytearray):
        host = host.decode()
    if not is_loopback(host):
        REFUSED_HOSTS.append(str(host))
        raise ConnectionRefusedError(f"only loopback is allowed, not {host}")


def is_loopback(host: str | None) -> bool:
    """Whether a connection to this host stays on the machine."""
    if host in (None, "localhost"):
        return True
    return is_loopback_address(host) or host.lower() in ALIASES


def is_loopback_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def aliases(hosts: str) -> frozenset[str]:
    """The names that a hosts file gives to loopback and to nothing else."""
    ours: set[str] = set()
    others: set[str] = set()
    for line in hosts.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        (ours if is_loopback_address(address) else others).update(name.lower() for name in names)
    return frozenset(ours - others)


def sha256(text: str | None) -> str | None:
    """How a token is reported: it never is itself."""
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def bearer_sha256(authorization: str | bytes | None) -> str | None:
    """The digest of the token in an Authorization header."""
    text = authorization.decode() if isinstance(authorization, bytes) else authorization or ""
    scheme, _, bearer = text.partition(" ")
    return sha256(bearer) if scheme == "Bearer" else None


# Read once: a pod's does not change.
try:
    with open(HOSTS, encoding="utf-8") as file:
        ALIASES = aliases(file.read())
except OSError:
    ALIASES = frozenset()
sys.addaudithook(refuse_all_but_loopback)
# A proxy would be asked for loopback too.
os.environ["NO_PROXY"] = "*"
