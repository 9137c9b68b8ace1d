"""Fixtures of the byte model's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bytemodel.kinds import write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled files."""
    return write_files(tmp_path_factory.mktemp("labelled") / "data")
