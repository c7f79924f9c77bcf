"""What importing the package needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"


def run(code: str) -> str:
    """In a fresh interpreter."""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def test_the_package_alone_imports_nothing_of_others() -> None:
    code = (
        "import sys, graphtoken; "
        "print(*{name.partition('.')[0] for name in sys.modules} & {'O365', 'msal', 'requests', 'azure'})"
    )
    assert run(code) == ""


@pytest.mark.parametrize(("module", "absent", "extra"), [("o365", "O365", "o365"), ("azure", "azure.core", "azure")])
def test_an_extra_that_is_missing_is_named(module: str, absent: str, extra: str) -> None:
    code = (
        f"import sys\nsys.modules[{absent!r}] = None\n"
        f"try:\n    import graphtoken.{module}\nexcept ImportError as error:\n    print(error)"
    )
    assert f'pip install "graphtoken[{extra}]"' in run(code)


@pytest.mark.parametrize("module", ["o365", "azure"])
def test_one_extra_does_not_need_the_other(module: str) -> None:
    other = {"o365": "azure", "azure": "O365"}[module]
    assert run(f"import sys; sys.modules[{other!r}] = None; import graphtoken.{module}; print('fine')") == "fine"
