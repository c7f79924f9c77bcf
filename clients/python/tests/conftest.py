from __future__ import annotations

from support import WATCH, Graph, Mount, install_watch, token

install_watch()

# ruff: noqa: E402
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A mount with nothing in it. Whatever the test does, nothing may be written there."""
    path = tmp_path / "graph"
    WATCH.mount, WATCH.opens, WATCH.vanishes = str(path), 0, 0
    WATCH.writes.clear()
    yield Mount(path)
    WATCH.mount = None
    assert WATCH.writes == []


@pytest.fixture(autouse=True)
def only_loopback() -> Iterator[None]:
    WATCH.refused_hosts.clear()
    yield
    assert WATCH.refused_hosts == []


@pytest.fixture(autouse=True)
def no_token_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Of ours, at any level; of O365 and azure-core, at INFO and above (O365 logs its headers at DEBUG)."""
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", logger="graphtoken")
    yield
    assert token(0).partition(".")[0] not in caplog.text


@pytest.fixture
def graph() -> Iterator[Graph]:
    server = Graph()
    yield server
    server.close()
