"""Modalities are found by entry points, so that any package can bring one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cpusim.errors import UserError
from media import registry
from media.breaches import Broken, verdict
from media.modality import Modality
from tests.cli.calls import bgpt, refused
from tests.media.toys import Toy

PLUGIN = """
from tests.media.toys import Toy
from media.modality import Item

class Raises(Toy):
    def read(self, path):
        return self.pages[path.name]

    def judge(self, data, extension):
        return {}[extension]

class Shows(Toy):
    def show(self, data, extension):
        return {extension: b"another"}

def fax(kind=Toy, **values):
    return kind(**{"name": "fax", "summary": "faxes", **values})

def faxes(*items):
    return fax(make=lambda folder: iter(items))

FAX = fax()
NOTHING = 3
OTHER = fax(name="telex")
BARE = fax(extensions=())
DOTTED = fax(extensions=(".toy",))
TEXT = fax(extensions="toy")
RAISES = fax(Raises)
SHOWS = fax(Shows)
OUTSIDE = faxes(Item("../1.toy", b"1", ()))
TWICE = faxes(Item("1.toy", b"1", ()), Item("1.toy", b"2", ()))
STRING = faxes(Item("1.toy", "1", ()))
KEY = faxes(Item("1.toy", b"1", "one"))
SIDE = faxes(Item("1.toy", b"1", (), "dev"))
PLAIN = faxes(("1.toy", b"1"))
UNMADE = fax(make=None)
"""


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
        ("faxes:NOTHING", "asks for (name, summary, "),
        ("faxes:Toy", "is a class; the entry point must name an object"),
        ("faxes:OTHER", "calls itself 'telex', not as its entry point is called"),
        ("faxes:BARE", "has extensions (), which media/modality.py does not allow"),
        ("faxes:DOTTED", "has extensions ('.toy',), which"),
        ("faxes:TEXT", "has extensions 'toy', which"),
    ],
)
def test_a_broken_package_is_named_and_the_others_are_listed(
    site: Path, place: str, sentence: str
) -> None:
    install(site, "faxes", {"fax": place})
    with pytest.raises(UserError, match=re.escape(sentence)):
        registry.load("fax")
    listed = bgpt("modalities").stdout
    assert sentence in listed
    assert "audio: one second" in listed
    assert sentence in refused("data", "fax")
    sys.modules.pop("faxes", None)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("OUTSIDE", "its items gives an item called '../1.toy', which is no name of a file"),
        ("TWICE", "its items gives two items called 1.toy"),
        ("STRING", "its items gives 1.toy with data that are str, not bytes"),
        ("KEY", "its items gives 1.toy with keys that are no tuple of texts"),
        ("SIDE", "its items gives 1.toy the side 'dev', which is none of train, validation, test"),
        ("PLAIN", "its items gives ('1.toy', b'1'), which is no Item and no LeftOut"),
        ("UNMADE", "its items raised TypeError: 'NoneType' object is not callable, in "),
    ],
)
def test_items_against_the_contract_are_the_packages_fault_and_leave_nothing(
    site: Path, tmp_path: Path, fault: str, sentence: str
) -> None:
    install(site, "faxes", {"fax": f"faxes:{fault}"})
    said = refused("data", "fax", "--sample", "--out", tmp_path / "set")
    assert said.startswith(f"modality fax: {sentence}")
    assert "repair or uninstall the package that brings it" in said
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    sys.modules.pop("faxes")


def test_what_a_modality_raises_over_a_users_file_is_its_own_fault_and_not_the_files(
    site: Path, tmp_path: Path
) -> None:
    install(site, "faxes", {"fax": "faxes:RAISES"})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "1.toy").write_bytes(b"page")
    said = refused("data", "fax", "--data", mine, "--out", tmp_path / "set")
    line = PLUGIN.splitlines().index("        return self.pages[path.name]") + 1
    place = f"{site / 'faxes.py'}, line {line}"
    fault = "AttributeError: 'Raises' object has no attribute 'pages'"
    assert f"modality fax: its read raised {fault}, in {place}; repair" in said
    assert "left out" not in said
    sys.modules.pop("faxes")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("RAISES", "modality fax: its judge raised KeyError: 'toy', in "),
        ("SHOWS", "modality fax: its show gives .toy, which is none of its shown_as"),
    ],
)
def test_a_modality_that_cannot_judge_or_show_what_it_should_is_named(
    site: Path, fault: str, sentence: str
) -> None:
    install(site, "faxes", {"fax": f"faxes:{fault}"})
    with pytest.raises(Broken, match=re.escape(sentence)):
        verdict(registry.load("fax"), b"even", "toy")
    sys.modules.pop("faxes")


def test_a_modality_without_packages_is_not_said_to_have_data_that_can_be_fetched(
    site: Path,
) -> None:
    install(site, "faxes", {"fax": "faxes:FAX"})
    listed = bgpt("modalities").stdout
    assert "the small sample only: no package holds data for fax\n" in listed
    assert "bgpt data fax" not in listed
    sys.modules.pop("faxes")


def test_modalities_need_no_model_and_no_command_line() -> None:
    code = (
        "import sys; from media import prepared, registry\n"
        "for name in registry.names(): registry.load(name)\n"
        "print(*sorted({'torch', 'cli', 'bytemodel', 'music21', 'symusic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
