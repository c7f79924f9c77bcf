#!/usr/bin/env python3
"""Tests that each alert has its runbook page, each page its parts, and that no page is left over.

The rules are split by their first lines, which promtool has checked: so no YAML library is needed.
Usage: tests/prometheus/runbooks_test.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALERTS = ROOT / "charts/graphtoken-operator/files/alerts.yaml"
RUNBOOKS = ROOT / "docs/runbooks"
PARTS = ["\n**What pods notice:**", "\n## Look\n\n```console\n$ kubectl ", "\n## Do\n", "\n## Silence\n"]


def problems():
    rules = re.split(r"^ +- alert: ", ALERTS.read_text(), flags=re.M)[1:]
    rules = {rule.split("\n")[0]: rule for rule in rules}
    monitoring = (ROOT / "docs/monitoring.md").read_text()
    unit_tests = (ROOT / "tests/prometheus/alerts_test.yaml").read_text()
    for name, rule in rules.items():
        for line in [r"for: \d", r"summary: .", r"description: .", rf"runbook_url: docs/runbooks/{name}\.md$"]:
            if not re.search(rf"^ +{line}", rule, flags=re.M):
                yield f"{name} has no line {line!r}"
        if f"(runbooks/{name}.md)" not in monitoring:
            yield f"{name} is not in docs/monitoring.md"
        # Fires in one test, and is asked for in one where it does not.
        if f"alertname: {name}\n" not in unit_tests:
            yield f"{name} fires in no unit test"
        if f"alertname: {name}, " not in unit_tests and f'alertname="{name}"' not in unit_tests:
            yield f"{name} is silent in no unit test"
        page = RUNBOOKS / f"{name}.md"
        if not page.exists():
            yield f"{name} has no page"
            continue
        text = page.read_text()
        severity = re.search(r"severity: (\w+)", rule)[1].capitalize()
        if not text.startswith(f"# {name}\n\n{severity}. "):
            yield f"{page.name} does not begin with its name and severity"
        for part in PARTS:
            if part not in text:
                yield f"{page.name} has no part {part.strip().splitlines()[0]!r}"
        if f"amtool silence add alertname={name} " not in text:
            yield f"{page.name} does not tell how to silence it"
    for page in RUNBOOKS.glob("*.md"):
        if page.name != "README.md" and page.stem not in rules:
            yield f"{page.name} is for no alert"
    for page in [*RUNBOOKS.glob("*.md"), ROOT / "docs/monitoring.md"]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not (page.parent / link).exists():
                yield f"{page.name} links to {link}, which is not there"


found = list(problems())
print("\n".join(found) or "ok: each alert has its page, each page its alert")
sys.exit(bool(found))
