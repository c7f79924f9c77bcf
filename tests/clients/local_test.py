"""Each consumer, with files as the operator writes them, as a pod's user on a read-only mount; no Kubernetes.

    sudo python3 tests/clients/local_test.py [-v] [Consumers.test_…]

Needs root on Linux, openssl, curl, rclone, Go, what hack/python/venv.sh makes, and `cargo build -p entra-simulator`.
"""

import json
import sys
import time
import unittest
from collections.abc import Sequence
from pathlib import Path

from pod import CLIENT_ID, CLIENTS, DRIVE_FILE, DRIVE_ID, MOUNTED, PACKAGE, Case, Python, tool


class Consumers(Case):
    def report(self, command: Sequence[str | Path], readable: Sequence[Path] = (), expected: int = 0) -> dict:
        code, output, errors = self.pod.run(command, readable)
        self.assertNotIn(self.token, output + errors)
        self.assertEqual(code, expected, output + errors)
        return json.loads(output.splitlines()[-1])

    def python(self, environment: Python, script: str, *options: str, expected: int = 0) -> dict:
        command: list[str | Path] = [environment.program, "-I", CLIENTS / script, "--client-id", CLIENT_ID]
        command += ["--token-dir", MOUNTED, *options]
        return self.report(command, environment.readable, expected)

    def test_python_o365_reads_the_default_file(self) -> None:
        tenant = ["--tenant-id", self.simulator.tenant_id, "--api-url", "https://graph.microsoft.com"]
        report = self.python(self.o365, "o365_check.py", *tenant, "--scopes", "Mail.Read")
        self.assertEqual((report["is_authenticated"], report["upn"]), (True, "etl@contoso.com"))
        self.assertEqual((report["msal_sha256"], report["refused_hosts"]), (self.sent, []))
        self.assert_graph_saw("/me")

    def test_python_o365_2_0_reads_oauth2_json(self) -> None:
        for flow in ("public", "authorization"):
            report = self.python(Python("o365-2.0"), "o365_v20_check.py", "--flow", flow)
            self.assertEqual((report["is_authenticated"], report["upn"]), (True, "etl@contoso.com"))
            self.assertEqual((report["error"], report["refused_hosts"]), (None, []))
        self.assert_graph_saw("/me", "/me")

    def test_msal_finds_the_token_and_asks_its_authority_for_the_configuration_only(self) -> None:
        options = ["--tenant-id", self.simulator.tenant_id, "--scopes", "Mail.Read", "User.Read"]
        report = self.python(self.o365, "msal_check.py", *options)
        self.assertEqual((report["msal_sha256"], report["upn"]), (self.sent, "etl@contoso.com"))
        self.assertEqual(len(report["authority_requests"]), 1)
        self.assertEqual((report["error"], report["refused_hosts"]), (None, []))
        self.assert_graph_saw("/me")

    def test_msal_learns_the_guid_of_a_domain_but_misses_by_common(self) -> None:
        report = self.python(
            self.o365, "msal_check.py", "--tenant-id", "contoso.onmicrosoft.com", "--scopes", "Mail.Read"
        )
        self.assertEqual((report["msal_sha256"], len(report["authority_requests"])), (self.sent, 1))
        report = self.python(self.o365, "msal_check.py", "--tenant-id", "common", "--scopes", "Mail.Read", expected=1)
        self.assertEqual((report["msal_sha256"], report["request_status"]), (None, None))

    def test_curl_takes_the_header_file(self) -> None:
        report = self.report(["sh", CLIENTS / "curl_check.sh", MOUNTED])
        self.assertEqual(report, {"request_status": 200, "file_bearer_sha256": self.sent, "curl_exit": 0})
        self.assert_graph_saw("/me")

    def test_go_oauth2_takes_oauth2_json(self) -> None:
        program = tool("tests/clients/go/build.sh")
        report = self.report([program, "--token-dir", MOUNTED])
        self.assertEqual(
            (report["valid"], report["upn"], report["sent_bearer_sha256"]), (True, "etl@contoso.com", self.sent)
        )
        self.assert_graph_saw("/me")
        refused = self.report([program, "--token-dir", MOUNTED, "--api-url", "https://graph.invalid"], expected=1)
        self.assertEqual(set(refused["refused_hosts"]), {"graph.invalid:443"})

    def test_rclone_takes_oauth2_json_as_its_token(self) -> None:
        copy = self.pod.scratch / "copied"
        report = self.report(["sh", CLIENTS / "rclone_check.sh", MOUNTED, DRIVE_ID, copy])
        self.assertEqual(report, {"files": [DRIVE_FILE], "file_bearer_sha256": self.sent, "rclone_exit": 0})
        self.assertEqual(json.loads((copy / DRIVE_FILE).read_text()), {"hello": "OneDrive"})
        root = f"/drives/{DRIVE_ID}"
        listing = [f"{root}/root", f"{root}/items/01ROOT/children?$top=1000"]
        self.assert_graph_saw(*listing, *listing, f"{root}/items/01FILE/content")

    def test_rclone_takes_a_configuration_file_and_reads_it_anew_once_its_token_expires(self) -> None:
        # rclone takes a token for expired in its last ten seconds.
        self.rotate(lifetime=14)
        first = self.sent
        commands = f"for n in 1 2; do rclone --config {MOUNTED}/rclone.conf lsf onedrive: || exit; done"
        code, output, errors = self.pod.run(["sh", "-c", commands])
        self.assertEqual((code, output, errors), (0, f"{DRIVE_FILE}\n" * 2, ""))

        # One process, as `rclone mount` and `rclone serve` are, that lives through the first token's end.
        server = ["rclone", "--config", f"{MOUNTED}/rclone.conf", "rcd", "--rc-no-auth", "--rc-addr", "127.0.0.77:5572"]
        process = self.pod.start(server)
        self.addCleanup(process.communicate)
        self.addCleanup(process.terminate)
        list_files = ["rclone", "rc", "--url", "http://127.0.0.77:5572", "operations/list", "fs=onedrive:", "remote="]
        self.eventually(lambda: self.pod.run(list_files)[0] == 0)
        time.sleep(6)
        self.rotate()
        self.assertNotEqual(self.sent, first)
        self.begin = len(self.simulator.seen())
        code, output, errors = self.pod.run(list_files)
        self.assertEqual(code, 0, output + errors)
        self.assertIn(DRIVE_FILE, output)
        self.assertEqual({entry["bearer_sha256"] for entry in self.simulator.seen(self.begin)}, {self.sent})

    def test_a_reader_sees_whole_files_only_and_a_retry_heals_what_it_missed(self) -> None:
        process = self.pod.start(
            [
                self.o365.program,
                CLIENTS / "reader.py",
                *("--file", f"{MOUNTED}/o365_token.txt", "--kind", "json", "--rotations", "20", "--timeout", "60"),
            ],
            self.o365.readable,
        )
        while process.poll() is None:
            self.rotate()
            time.sleep(0.05)
        output, errors = process.communicate()
        self.assertEqual(process.returncode, 0, output + errors)
        report = json.loads(output)
        self.assertEqual((report["empty"], report["torn"], report["rotations"]), (0, 0, 20))

    def test_a_loop_follows_each_swap_though_the_old_token_is_revoked_before_its_next_request(self) -> None:
        command = [self.o365.program, CLIENTS / "loop.py", "--token-dir", MOUNTED, "--client-id", CLIENT_ID]
        command += ["--tenant-id", self.simulator.tenant_id, "--interval", "0.1", "--rotations", "3", "--timeout", "60"]
        process = self.pod.start(command, self.o365.readable, PYTHONPATH=str(PACKAGE))
        tokens = []
        for line in process.stdout:
            said = json.loads(line)
            if said["event"] == "token":
                tokens.append(said["sent_bearer_sha256"])
                self.assertEqual((said["status"], tokens[-1]), (200, self.sent))
                if len(tokens) <= 3:
                    self.rotate()
                    self.simulator.revoke_all_but_newest()
        _, errors = process.communicate()
        self.assertEqual((process.returncode, errors), (0, ""), said)
        self.assertEqual((said["failed"], said["rotations"], said["tokens"]), (0, 3, tokens))
        self.assertEqual(said["refused_answers"], 3)

    def test_a_loop_with_the_stock_backend_ends_with_the_token_that_it_began_with(self) -> None:
        options = ["--tenant-id", self.simulator.tenant_id, "--backend", "stock", "--interval", "0.1", "--timeout", "3"]
        report = self.python(self.o365, "loop.py", *options, "--rotations", "1", expected=1)
        self.assertEqual((report["failed"], report["tokens"]), (0, [self.sent]))


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("Linux is needed")
    unittest.main()
