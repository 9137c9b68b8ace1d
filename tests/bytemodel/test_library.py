"""The package as a library: what it exports, and the page of examples, which runs."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bytemodel

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "library.md"


def test_the_examples_of_the_page_run_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    with contextlib.chdir(tmp_path):
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"library.md, block {number}", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "no-such-model.pt: no such checkpoint; check the name" in shown
    assert "refused: the file is damaged or cut short" in shown
    assert "100%: " in shown


@pytest.mark.parametrize("name", bytemodel.__all__)
def test_every_name_is_what_its_module_has(name: str) -> None:
    found = getattr(bytemodel, name)
    module, there = bytemodel._PLACES[name].split(":")
    assert found is getattr(importlib.import_module(f"bytemodel.{module}"), there)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"bytemodel.{name}")
    assert name in dir(bytemodel)


def test_what_is_typed_listed_and_loaded_are_the_same_names() -> None:
    tree = ast.parse(Path(bytemodel.__file__).read_text())
    typed = {
        (
            alias.asname or alias.name
        ): f"{(node.module or '').removeprefix('bytemodel.')}:{alias.name}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == bytemodel._PLACES
    assert sorted(typed) == sorted(bytemodel.__all__)


def test_an_unknown_name_is_refused_as_any_module_does() -> None:
    with pytest.raises(AttributeError, match="module 'bytemodel' has no attribute 'lode'"):
        bytemodel.lode  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lode'"):
        from bytemodel import lode  # type: ignore[attr-defined]  # noqa: F401


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, bytemodel; print('torch' in sys.modules, len(bytemodel.__all__) > 20)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert result.stdout == "False True\n"
