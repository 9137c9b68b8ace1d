"""Modalities are found by entry points, so that any package can bring one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpusim.errors import UserError
from media import registry
from media.modality import Modality
from tests.cli.calls import bgpt, refused
from tests.media.toys import Toy

PLUGIN = "from tests.media.toys import Toy\nFAX = Toy(name='fax', summary='faxes')\nNOTHING = 3\n"


def install(folder: Path, package: str, points: dict[str, str]) -> None:
    """What pip would leave of a package with these modalities."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {place}\n" for name, place in points.items()]
    (about / "entry_points.txt").write_text("[bgpt.modalities]\n" + "".join(lines))
    (folder / f"{package}.py").write_text(PLUGIN)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path to install into."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_our_own_modalities_keep_the_contract() -> None:
    for name in ("audio", "folksong", "image", "music", "reuters", "terminfo", "text"):
        assert name in registry.names()
        modality = registry.load(name)
        assert isinstance(modality, Modality)
        assert modality.name == name
        assert modality.sample.is_dir()
        assert modality.licence
        assert modality.sample_licence


def test_a_package_can_bring_one_and_every_command_knows_it(site: Path, tmp_path: Path) -> None:
    install(site, "faxes", {"fax": "faxes:FAX"})
    assert isinstance(registry.load("fax"), Toy)
    assert "fax: faxes" in bgpt("modalities").stdout
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(9):
        (mine / f"{number}.toy").write_bytes(b"page %d" % number)
    bgpt("data", "fax", "--data", mine, "--out", tmp_path / "set")
    assert len(list((tmp_path / "set").glob("*/*.toy"))) == 9
    sys.modules.pop("faxes")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no modality 'musik'; did you mean music"):
        registry.load("musik")


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    install(site, "faxes", {"fax": "faxes:FAX"})
    install(site, "pages", {"fax": "pages:FAX"})
    with pytest.raises(UserError, match="fax: is brought by faxes and pages; uninstall"):
        registry.load("fax")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere:FAX", "faxes cannot load it from nowhere:FAX"),
        ("faxes:MISSING", "faxes cannot load it"),
        ("faxes:NOTHING", "lacks something"),
    ],
)
def test_a_broken_package_is_named_and_the_others_are_listed(
    site: Path, place: str, sentence: str
) -> None:
    install(site, "faxes", {"fax": place})
    with pytest.raises(UserError, match=sentence):
        registry.load("fax")
    listed = bgpt("modalities").stdout
    assert sentence in listed
    assert "audio: one second" in listed
    assert sentence in refused("data", "fax")
    sys.modules.pop("faxes", None)


def test_modalities_need_no_model_and_no_command_line() -> None:
    code = (
        "import sys; from media import prepared, registry\n"
        "for name in registry.names(): registry.load(name)\n"
        "print(*sorted({'torch', 'cli', 'bytemodel', 'music21', 'symusic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
