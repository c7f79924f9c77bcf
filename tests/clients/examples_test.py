"""The examples: their manifests are careful ones and fit together, and what their pods run works as it stands.

    sudo "$(hack/python/venv.sh airflow)/bin/python" tests/clients/examples_test.py [-v] [Programs.test_…]

That environment has a YAML parser, and Airflow for the DAG. Manifests are applied to a real API server by the cluster's
tests. Needs what local_test.py needs.
"""

import datetime
import json
import sys
import unittest
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml
from pod import CLIENTS, DRIVE_FILE, PACKAGE, REPOSITORY, Case, Python

EXAMPLES = REPOSITORY / "examples"


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def manifests() -> dict[Path, list[dict]]:
    """All but values of a chart."""
    return {path: documents(path) for path in sorted(EXAMPLES.rglob("*.yaml")) if path.name != "values.yaml"}


def pod_spec(document: dict) -> dict | None:
    spec = document.get("spec", {})
    match document["kind"]:
        case "Pod":
            return spec
        case "Deployment":
            return spec["template"]["spec"]
        case "CronJob":
            return spec["jobTemplate"]["spec"]["template"]["spec"]
    return None


def pods() -> list[tuple[Path, dict]]:
    return [(path, spec) for path, all_of in manifests().items() for one in all_of if (spec := pod_spec(one))]


def keys_of_targets(folder: Path) -> dict[str, set[str]]:
    """The keys of the Secrets that a folder's GraphTokens write."""
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.yaml"):
        for one in documents(path):
            if one.get("kind") == "GraphToken":
                target = one["spec"].get("target", {})
                data = target.get("data", [{"key": "token"}, {"key": "o365_token.txt"}])
                found[target.get("secretName", one["metadata"]["name"])] = {entry["key"] for entry in data}
    return found


class Manifests(unittest.TestCase):
    def test_every_pod_runs_with_as_few_rights_as_it_can(self) -> None:
        self.assertEqual(len(pods()), 5)
        for path, spec in pods():
            with self.subTest(path):
                self.assertIs(spec["automountServiceAccountToken"], False)
                user = {
                    "runAsUser": 50000,
                    "runAsGroup": 0,
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                }
                self.assertEqual(spec["securityContext"], user)
                for container in spec["containers"]:
                    rights = {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    }
                    self.assertEqual(container["securityContext"], rights)
                    self.assertEqual(set(container["resources"]), {"requests", "limits"})
                    self.assertRegex(container["image"], r"^docker\.io/[a-z/0-9-]+:[0-9.]+$")

    def test_every_secret_is_mounted_whole_and_read_only(self) -> None:
        for path, spec in pods():
            with self.subTest(path):
                secrets = {volume["name"] for volume in spec.get("volumes", []) if "secret" in volume}
                mounts = [mount for container in spec["containers"] for mount in container.get("volumeMounts", [])]
                for mount in mounts:
                    self.assertNotIn("subPath", mount)
                    if mount["name"] in secrets:
                        self.assertEqual((mount["mountPath"], mount["readOnly"]), ("/var/run/graph", True))

    def test_a_folders_graphtoken_writes_what_its_pods_read(self) -> None:
        for path, spec in pods():
            with self.subTest(path):
                targets = keys_of_targets(path.parent)
                for volume in spec.get("volumes", []):
                    if "secret" in volume:
                        keys = targets[volume["secret"]["secretName"]]
                        text = path.read_text(encoding="utf-8")
                        self.assertTrue(any(key in text for key in keys), keys)
                for variable in (one for container in spec["containers"] for one in container.get("env", [])):
                    if "valueFrom" in variable:
                        of = variable["valueFrom"]["secretKeyRef"]
                        self.assertIn(of["key"], targets[of["name"]])

    def test_every_example_says_when_to_choose_it_and_is_in_the_table(self) -> None:
        table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
        for folder in (path for path in EXAMPLES.iterdir() if path.is_dir()):
            with self.subTest(folder.name):
                texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()]
                said = any("hoose it" in text for text in texts) or folder.name in ("quickstart", "cluster-client")
                self.assertTrue(said)
                self.assertIn(f"]({folder.name}", table)


class Programs(Case):
    """What containers run, taken from the manifests, against a graph.microsoft.com that is the simulator."""

    def container(self, name: str) -> dict:
        (spec,) = [spec for path, spec in pods() if path == EXAMPLES / name]
        return spec["containers"][0]

    def environment(self, name: str, **others: str) -> dict[str, str]:
        given = {one["name"]: one["value"] for one in self.container(name)["env"] if "value" in one}
        self.assertLessEqual(set(others) & set(given), {"SECONDS_BETWEEN"})
        return {**given, **others, "PYTHONPATH": str(PACKAGE)}

    def program(self, manifest: str, file: str) -> list:
        """The Python of a ConfigMap, where the pod can read it."""
        (text,) = [one["data"][file] for one in documents(EXAMPLES / manifest) if one["kind"] == "ConfigMap"]
        self.assertTrue(self.container(manifest)["args"][-1].endswith(f"/{file}"))
        path = self.pod.scratch / file
        path.write_text(text, encoding="utf-8")
        return [self.o365.program, path]

    def run_whole(self, command: Sequence[str | Path], readable: Sequence[Path] = (), **environment: str) -> str:
        code, output, errors = self.pod.run(command, readable, **environment)
        self.assertEqual(code, 0, output + errors)
        self.assertNotIn(self.token, output + errors)
        return output

    def until_told(self, command: Sequence[str | Path], requests: int, **environment: str) -> str:
        """Runs what has no end until it has made so many requests more, and ends it as the kubelet does."""
        process = self.pod.start(command, **environment)
        begin = len(self.simulator.seen())
        self.eventually(lambda: process.poll() is not None or len(self.simulator.seen()) >= begin + requests)
        process.terminate()
        output, errors = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, output + errors)
        self.assertNotIn(self.token, output + errors)
        return output

    def render(self, template: str) -> str:
        """As the operator renders it: its templates are in Jinja's syntax."""
        jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
        jinja.filters["json"] = json.dumps
        expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        values = {"access_token": self.token, "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return jinja.from_string(template).render(values)

    def test_the_airflow_task_reads_with_python_o365s_own_backend(self) -> None:
        program = self.program("airflow-worker/task.yaml", "count_mail.py")
        output = self.run_whole(program, self.o365.readable, **self.environment("airflow-worker/task.yaml"))
        self.assertEqual(output, "Inbox: 0 mails, 0 unread\n")
        self.assert_graph_saw("/me/mailFolders/inbox")

    def test_the_airflow_worker_goes_on_with_each_new_token(self) -> None:
        program = self.program("airflow-worker/worker.yaml", "watch_mail.py")
        environment = self.environment("airflow-worker/worker.yaml", SECONDS_BETWEEN="0.1")
        process = self.pod.start(program, self.o365.readable, **environment)
        for _ in range(3):
            self.assertEqual(process.stdout.readline(), "Inbox: 0 unread\n")
            self.rotate()
            self.simulator.revoke_all_but_newest()
            self.eventually(lambda: self.simulator.seen()[-1]["bearer_sha256"] == self.sent)
        process.terminate()
        output, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (0, ""))
        self.assertEqual(set(output.splitlines()), {"Inbox: 0 unread"})

    def test_the_dag_loads_in_airflow_and_its_tasks_run(self) -> None:
        python = Python("airflow")
        dag = EXAMPLES / "airflow-dag/count_mail.py"
        command = [python.program, CLIENTS / "dag_check.py", "--dag", dag]
        output = self.run_whole(command, [*python.readable, dag.parent], PYTHONPATH=str(PACKAGE))
        report = json.loads(output)
        self.assertEqual(report["dags"], {"count_mail": {"unread_mails": 0, "report": None}})
        self.assert_graph_saw("/me/mailFolders/inbox")

    def test_the_cronjob_sends_the_header_file(self) -> None:
        output = self.run_whole(self.container("cronjob/cronjob.yaml")["command"])
        self.assertEqual(json.loads(output), {"totalItemCount": 0, "unreadItemCount": 0})
        self.assert_graph_saw("/me/mailFolders/inbox?$select=totalItemCount,unreadItemCount")

    def test_rclone_copies_again_and_again_with_the_mounted_configuration(self) -> None:
        (graphtoken,) = documents(EXAMPLES / "rclone/graphtoken.yaml")
        ((key, template),) = [(entry["key"], entry["template"]) for entry in graphtoken["spec"]["target"]["data"]]
        container = self.container("rclone/deployment.yaml")
        self.mount.write({key: self.render(template)})
        self.addCleanup(self.rotate)
        (args,) = container["args"]
        data = self.pod.scratch / "data"
        data.mkdir(exist_ok=True)
        data.chmod(0o777)
        command = [*container["command"], args.replace(" /data ", f" {data} ")]
        self.assertNotEqual(command[-1], args)
        environment = self.environment("rclone/deployment.yaml", SECONDS_BETWEEN="0.1")
        self.until_told(command, 6, **environment)
        self.assertEqual(json.loads((data / DRIVE_FILE).read_text(encoding="utf-8")), {"hello": "OneDrive"})
        self.assertEqual({entry["status"] for entry in self.simulator.seen(self.begin)}, {200})

    def test_the_environment_reader_hides_its_token_from_the_process_list(self) -> None:
        container = self.container("env-restart/deployment.yaml")
        environment = self.environment("env-restart/deployment.yaml", SECONDS_BETWEEN="0.1", MSGRAPH_TOKEN=self.token)
        self.assertNotIn("-H 'Authorization", container["args"][0])
        output = self.until_told([*container["command"], *container["args"]], 3, **environment)
        self.assertEqual(set(output.splitlines()), {"me: 200"})


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("Linux is needed")
    unittest.main()
