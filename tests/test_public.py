from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import irr

ROOT = Path(__file__).parents[1]


def test_the_public_names() -> None:
    assert irr.__all__ == [
        "Document",
        "InferRetrieveRank",
        "IrrError",
        "LMChoice",
        "Label",
        "LabelSet",
        "Prediction",
        "RetrieveSettings",
        "ScoredLabel",
        "Selection",
        "Usage",
        "build_program",
        "read_documents",
        "read_gold",
    ]
    assert set(irr.__all__) <= set(dir(irr))
    for name in irr.__all__:
        assert getattr(irr, name).__name__ == name


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        _ = irr.predictt


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert irr.__version__ == project["version"]


def test_every_doctest() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "irr").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = (
        "import doctest, importlib\n"
        f"for name in {modules!r}:\n"
        "    assert not doctest.testmod(importlib.import_module(name)).failed, name\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
