"""What the docs' runner finds in pages, what it refuses, and how it compares outputs. Run: python3 -m unittest discover -s tests/docs"""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import markdown  # noqa: E402
from coverage import Elsewhere, On, Setting, problems  # noqa: E402
from reader import Reader, looks_like  # noqa: E402

PAGE = """# Title

## One

```console
$ make test     # everything
ok
$ helm install x \\
    --wait
NAME   AGE
```

- In a list:

  ```console
  $ kubectl get x
  ```

```yaml
apiVersion: v1
kind: A
---
kind: B
```

```yaml
values: 1
```
"""


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "Makefile").write_text("test:\n")

    def page(self, text: str) -> markdown.Page:
        (self.root / "a.md").write_text(text)
        return markdown.read(self.root, "a.md")

    def problems(self, text: str, settings=None, elsewhere=()) -> str:
        return "\n".join(problems(self.root, {"a.md": self.page(text)}, settings or {}, elsewhere))


class Pages(Case):
    def test_commands_have_their_continuations_outputs_and_section(self):
        commands = self.page(PAGE).commands
        self.assertEqual([one.bare for one in commands], ["make test", "helm install x --wait", "kubectl get x"])
        self.assertEqual([one.output for one in commands], [("ok",), ("NAME   AGE",), ()])
        self.assertEqual({one.section for one in commands}, {"One"})
        self.assertEqual([one.line for one in commands], [6, 8, 16])

    def test_whole_commands_in_the_text_count_and_names_of_commands_do_not(self):
        text = "As `kubectl get` or\n`kubectl -n x get\ny` does, `kubectl -n x get …`, `amtool a \\| b`.\n```console\n$ x\n```\n`amtool c d`\n"
        found = [(one.line, one.bare) for one in self.page(text).commands if one.section == markdown.IN_TEXT]
        self.assertEqual(found, [(2, "kubectl -n x get y"), (3, "amtool a | b"), (7, "amtool c d")])

    def test_manifests_are_whole_objects_and_their_documents(self):
        (manifest,) = self.page(PAGE).manifests
        self.assertEqual([one.strip() for one in manifest.documents], ["apiVersion: v1\nkind: A", "kind: B"])

    def test_commands_where_none_are_looked_for_are_refused(self):
        self.assertIn("a.md:2: a block of sh", self.problems("```sh\nrm x\n```\n"))
        self.assertIn("line 2 is output of no command", self.problems("```console\nrm x\n```\n"))
        self.assertIn("has no end", self.problems("```console\n$ rm x\n"))


class Coverage(Case):
    def test_a_command_that_nothing_runs_is_found(self):
        text = "```console\n$ make test\n$ make coffee\n```\n"
        (self.root / "test.sh").write_text("make test\n")
        by = Elsewhere("*.md", "make test", "test.sh", "make test")
        self.assertEqual(self.problems(text, elsewhere=(by,)).split("\n")[0], "a.md:3: make coffee")
        self.assertEqual(self.problems(text, {"a.md": Setting()}, (by,)), "")

    def test_a_test_that_does_not_run_it_is_found(self):
        text = "```console\n$ make test\n```\n"
        by = Elsewhere("*.md", "make test", "test.sh", "make test")
        self.assertIn("which has no 'make test'", self.problems(text, elsewhere=(by,)))
        (self.root / "test.sh").write_text("make coffee\n")
        self.assertIn("which has no 'make test'", self.problems(text, elsewhere=(by,)))
        apart = Elsewhere("*.md", "make test", "test.sh", "make coffee", sections=("Do",))
        self.assertIn("is run by no test", self.problems(text, elsewhere=(apart,)))

    def test_what_is_said_of_commands_that_are_gone_is_found(self):
        text = "```console\n$ make test\n```\n"
        self.assertIn("no command with 'coffee'", self.problems(text, {"a.md": Setting(on=(On("coffee"),))}))
        self.assertIn(
            "where no such command is", self.problems(text, {"a.md": Setting()}, (Elsewhere("*", "x", "y", "z"),))
        )
        self.assertIn(
            "b.md has a setting, and is not there", self.problems(text, {"a.md": Setting(), "b.md": Setting()})
        )

    def test_a_target_of_make_that_is_not_there_is_found(self):
        self.assertEqual(self.problems("`make\ntest KEEP=1` and `make coffee`\n"), "a.md: there is no `make coffee`")


class Outputs(Case):
    def test_numbers_ages_and_widths_may_differ_and_nothing_else(self):
        text = 'NAME   READY   AGE\nmail-etl   True   1m20s\n{"mail":"etl@contoso.com","x":1}\n'
        for line in ("NAME READY AGE", "mail-etl  True  9s", '{…"etl@contoso.com"…}', "mail-… True 1d"):
            self.assertTrue(looks_like(line, text), line)
        for line in ("NAME READY", "mail-etl  False  9s", '{…"eva@contoso.com"…}', "True 9s"):
            self.assertFalse(looks_like(line, text), line)

    def test_a_reader_keeps_folder_and_exports_and_has_no_others(self):
        reader = Reader(self.root, self.root)
        self.assertEqual(reader.type("export A='x y' && mkdir sub && cd sub").status, 0)
        said = reader.type('echo "$A"; pwd; false')
        self.assertEqual((said.status, said.text), (1, f"x y\n{self.root / 'sub'}\n"))
        self.assertEqual(reader.value("A"), "x y")
        self.assertNotIn("KUBECONFIG", reader.type("env").text)
        self.assertEqual(reader.type("echo up; sleep 100", until="up").status, 0)


if __name__ == "__main__":
    unittest.main()
