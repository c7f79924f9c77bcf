"""A pod on this machine without Kubernetes, for local_test.py and examples_test.py.

It has uid 50000 and gid 0, no rights, a read-only mount that is swapped as the kubelet swaps it, and names of
Microsoft's that mean loopback, where the simulator serves HTTPS.

Needs root on Linux: mount namespaces, and port 443.
"""

import base64
import contextlib
import datetime
import hashlib
import json
import os
import shlex
import shutil
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

UID = 50_000
# Where pods see the Secret.
MOUNTED = "/var/run/graph"
ADDRESS = "127.0.0.77"
NAMES = ("graph.microsoft.com", "login.microsoftonline.com")
SCOPES = ("Files.Read", "Mail.Read", "User.Read")
CLIENT_ID = "11111111-2222-3333-4444-555555555555"
REPOSITORY = Path(__file__).resolve().parents[2]
CLIENTS = REPOSITORY / "tests/clients"
# graphtoken, as pods have it installed.
PACKAGE = REPOSITORY / "clients/python/src"
DRIVE_ID = "b!aaaabbbb0000cccc1111"
DRIVE_FILE = "hello.json"


def target() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")


def tool(*command: str) -> Path:
    """What a script of ours makes and names on its last line."""
    made = subprocess.run([REPOSITORY / command[0], *command[1:]], check=True, stdout=subprocess.PIPE, text=True)
    return Path(made.stdout.split()[-1])


class Python:
    """A virtual environment, and the folders that it lives from."""

    def __init__(self, name: str) -> None:
        self.folder = tool("hack/python/venv.sh", name)
        self.program = self.folder / "bin/python"
        ask = [self.program, "-c", "import sys; print(sys.base_prefix)"]
        base = subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        settings = (self.folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
        home = next(line.partition("=")[2].strip() for line in settings if line.startswith("home"))
        self.readable = [self.folder, Path(base), Path(home), PACKAGE]


class Authority:
    """A certificate for Microsoft's names, of an authority that nobody else trusts."""

    def __init__(self, folder: Path) -> None:
        self.bundle, self.certificate, self.key = (folder / name for name in ("ca.crt", "server.crt", "server.key"))
        names = ",".join([f"DNS:{name}" for name in NAMES] + [f"IP:{ADDRESS}"])
        for options in (
            "-keyout ca.key -out ca.crt -subj /CN=authority -addext keyUsage=critical,keyCertSign",
            "-keyout server.key -out server.crt -subj /CN=server -CA ca.crt -CAkey ca.key"
            f" -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE",
        ):
            command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {options}"
            subprocess.run(command.split(), cwd=folder, check=True, stderr=subprocess.DEVNULL)
        self.bundle.chmod(0o444)


class Simulator:
    """Our simulator of Entra ID and Graph, at the address that the names mean."""

    def __init__(self, authority: Authority) -> None:
        command = [target() / "debug/entra-simulator", "--listen", f"{ADDRESS}:443", "--exit-with-stdin"]
        command += ["--tls-certificate", authority.certificate, "--tls-key", authority.key]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the simulator does not start: see above")
        told = json.loads(line)
        self.token_endpoint, self.tenant_id = told["token_endpoint"], told["tenant_id"]
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority.bundle)),
        )
        self.issued: list[str] = []
        self.refresh_token = self.control("POST", "refresh-tokens")["refresh_token"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)

    def control(self, method: str, path: str, body: dict | None = None) -> dict:
        url = f"https://{ADDRESS}/_sim/{path}"
        request = urllib.request.Request(url, json.dumps(body or {}).encode(), method=method)
        with self.opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def issue(self) -> dict:
        """What the token endpoint answers to a refresh."""
        form = {
            "grant_type": "refresh_token",
            "client_info": "1",
            "client_id": CLIENT_ID,
            "refresh_token": self.refresh_token,
            "scope": " ".join([*SCOPES, "offline_access"]),
        }
        with self.opener.open(self.token_endpoint, urllib.parse.urlencode(form).encode(), timeout=10) as answer:
            issued = json.load(answer)
        self.issued.append(issued["access_token"])
        return issued

    def revoke_all_but_newest(self) -> None:
        """Graph refuses every access token but the newest from now on."""
        for token in self.issued[:-1]:
            self.control("POST", "access-tokens/revoke", {"token": token})
        del self.issued[:-1]

    def seen(self, begin: int = 0) -> list[dict]:
        return self.control("GET", f"journal?graph_from={begin}")["graph"]


def formats(answer: dict, tenant_id: str) -> dict[str, str]:
    """The target's keys as the contract fixes them, written by other code than the operator's."""
    token, now = answer["access_token"], int(time.time())
    expires_on = now + int(answer["expires_in"])
    rfc3339 = datetime.datetime.fromtimestamp(expires_on, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    scopes = " ".join(sorted(scope for scope in answer["scope"].split() if scope != "offline_access"))
    packed = answer["client_info"]
    info = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    home, environment = f"{info['uid']}.{info['utid']}", "login.microsoftonline.com"
    cache = {
        "AccessToken": {
            f"{home}-{environment}-accesstoken-{CLIENT_ID}-{tenant_id}-{scopes}".lower(): {
                "credential_type": "AccessToken",
                "secret": token,
                "home_account_id": home,
                "environment": environment,
                "client_id": CLIENT_ID,
                "target": scopes,
                "realm": tenant_id,
                "token_type": "Bearer",
                "cached_at": str(now),
                "expires_on": str(expires_on),
                "extended_expires_on": str(expires_on),
            }
        },
        "Account": {
            f"{home}-{environment}-{tenant_id}".lower(): {
                "home_account_id": home,
                "environment": environment,
                "realm": tenant_id,
                "local_account_id": info["uid"],
                "username": "etl@contoso.com",
                "authority_type": "MSSTS",
            }
        },
        "AppMetadata": {f"appmetadata-{environment}-{CLIENT_ID}": {"client_id": CLIENT_ID, "environment": environment}},
    }
    oauth2 = {
        "access_token": token,
        "token_type": "Bearer",
        "expiry": rfc3339,
        "expires_at": expires_on,
        "scope": scopes,
    }
    rclone = json.dumps({member: oauth2[member] for member in ("access_token", "token_type", "expiry")})
    return {
        "token": token,
        "rclone.conf": f"[onedrive]\ntype = onedrive\ndrive_type = business\ndrive_id = {DRIVE_ID}\ntoken = {rclone}\n",
        "o365_token.txt": json.dumps(cache),
        "oauth2.json": json.dumps(oauth2),
        "header": f"Authorization: Bearer {token}\n",
        "graph.env": f"MSGRAPH_TOKEN={token}\n",
    }


class Mount:
    """A Secret's volume: folders of a version each, a link to the newest, and a link a key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.versions = folder, 0
        folder.mkdir(mode=0o755)

    def write(self, files: dict[str, str]) -> None:
        self.versions += 1
        old = self.folder / os.readlink(self.folder / "..data") if self.versions > 1 else None
        new = self.folder / f"..version_{self.versions}"
        new.mkdir(mode=0o755)
        for key, text in files.items():
            path = new / key
            path.write_text(text, encoding="utf-8")
            path.chmod(0o440)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self.folder / "..data")
        for key in files:
            if not (self.folder / key).is_symlink():
                (self.folder / key).symlink_to(f"..data/{key}")
        if old:
            shutil.rmtree(old)


class Pod:
    """Runs programs as a pod does."""

    def __init__(self, folder: Path, mount: Mount, authority: Authority) -> None:
        self.mount = mount
        self.hosts = folder / "hosts"
        self.hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {' '.join(NAMES)}\n", encoding="ascii")
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        os.chown(self.scratch, UID, 0)
        bundle = str(authority.bundle)
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            "CURL_CA_BUNDLE": bundle,
            "RCLONE_CA_CERT": bundle,
        }

    def start(
        self, command: Sequence[str | Path], readable: Sequence[Path] = (), **environment: str
    ) -> subprocess.Popen:
        """`readable`: folders that the user is to reach, though they may be below a home that is closed to it."""
        source = shlex.quote(str(self.mount.folder))
        # An empty /run: what runs on this machine has its sockets there.
        steps = ["mount -t tmpfs -o mode=755 tmpfs /run", f"mkdir -p {MOUNTED}", f"mount --bind {source} {MOUNTED}"]
        steps += [f"mount -o remount,bind,ro {MOUNTED}", f"mount --bind {shlex.quote(str(self.hosts))} /etc/hosts"]
        steps += reachable([*readable, CLIENTS, target()])
        words = ["setpriv", f"--reuid={UID}", "--regid=0", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        words += ["env", "-i", *(f"{key}={value}" for key, value in {**self.environment, **environment}.items())]
        steps.append("exec " + shlex.join([*words, *map(str, command)]))
        script = " && ".join(steps)
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(
        self, command: Sequence[str | Path], readable: Sequence[Path] = (), **environment: str
    ) -> tuple[int, str, str]:
        process = self.start(command, readable, **environment)
        with contextlib.closing(process.stdout), contextlib.closing(process.stderr):
            output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors


def reachable(folders: Sequence[Path]) -> list[str]:
    """Mounts that open the way to these folders, in the pod's namespace only, where a home on the way is closed."""
    steps: list[str] = []
    below: dict[Path, list[Path]] = {}
    for folder in {folder.resolve() for folder in folders}:
        closed = [parent for parent in reversed(folder.parents) if not parent.stat().st_mode & 0o001]
        if closed:
            below.setdefault(closed[0], []).append(folder)
    for number, (home, inside) in enumerate(below.items()):
        aside = f"/tmp/.graphtoken-pod-{os.getpid()}-{number}"
        steps += [f"mkdir -p {aside}", f"mount --bind {shlex.quote(str(home))} {aside}"]
        steps += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(home))}"]
        for folder in inside:
            there, here = shlex.quote(f"{aside}/{folder.relative_to(home)}"), shlex.quote(str(folder))
            steps += [f"mkdir -p {here}", f"mount --bind {there} {here}"]
        steps += [f"umount {aside}", f"rmdir {aside}"]
    return steps


class Case(unittest.TestCase):
    """A simulator and a pod, with a token mounted."""

    simulator: Simulator
    mount: Mount
    pod: Pod
    # The environment that most need.
    o365: Python
    # The token that is mounted, and its digest.
    token: str
    sent: str

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix="graphtoken-clients-")
        cls.addClassCleanup(folder.cleanup)
        path = Path(folder.name)
        path.chmod(0o755)
        authority = Authority(path)
        cls.simulator = Simulator(authority)
        cls.addClassCleanup(cls.simulator.stop)
        cls.mount = Mount(path / "graph")
        cls.pod = Pod(path, cls.mount, authority)
        cls.o365 = Python("o365")
        cls.rotate()

    @classmethod
    def rotate(cls, lifetime: int = 3_600) -> None:
        """A new token, mounted."""
        cls.simulator.control("PUT", "settings", {"token_lifetime_seconds": lifetime})
        answer = cls.simulator.issue()
        cls.mount.write(formats(answer, cls.simulator.tenant_id))
        cls.token = answer["access_token"]
        cls.sent = digest(cls.token)

    def setUp(self) -> None:
        self.begin = len(self.simulator.seen())

    def assert_graph_saw(self, *paths: str) -> None:
        """Requests with the mounted token, all answered."""
        seen = self.simulator.seen(self.begin)
        self.assertEqual([entry["path"] for entry in seen], [f"/v1.0{path}" for path in paths])
        self.assertEqual({(entry["status"], entry["bearer_sha256"]) for entry in seen}, {(200, self.sent)})

    def eventually(self, is_true: Callable[[], bool]) -> None:
        for _ in range(100):
            if is_true():
                return
            time.sleep(0.1)
        self.fail("it never became true")


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
