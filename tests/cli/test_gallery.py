"""`bgpt gallery`: what it makes, that nothing is lost, and the page in a real browser."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bytemodel import checkpoint, cpu
from bytemodel.conversion import convert
from bytemodel.patches import encode_conversion
from bytemodel.score import predict_patches
from cli import gallery_page
from cpusim.errors import UserError
from media import gallery, registry
from media.audio import AUDIO
from media.breaches import Broken
from media.gallery import Exhibit, Room, Settings, Shelf, Writer, room_of
from media.modality import Modality
from tests.bytemodel.models import random_model
from tests.cli.browser import (
    CONTRASTS,
    Outline,
    as_on_a_phone,
    check_structure,
    in_a_browser,
    media,
    press,
)
from tests.cli.calls import bgpt, refused

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u202e\"'&"
TUNE = f"X:1\nT:{HOSTILE}\nZ:somebody\nM:2/4\nL:1/8\nK:G\nGABc|d2B2|cBAG|G4:|\n"


@pytest.fixture(autouse=True, scope="module")
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sets are made of the samples, nothing is left in the cache of whoever runs the tests, and no
    media are written by what ships, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(cpu, "SHIPPED", tmp_path_factory.mktemp("weights") / "cpu-small.pt")
        yield


# The command ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of text, which says so, and one of CPU traces, which does not."""
    folder = tmp_path_factory.mktemp("models")
    about = {"kind": "media", "modality": "text", "licence": "public domain"}
    info = {"step": 3, "seconds": 60.0, "data": about, "evaluation": {"bits_per_byte": 7.5}}
    checkpoint.save(folder / "words.pt", random_model(), info=info)
    model = random_model(patch_size=16, max_patches=120)
    checkpoint.save(folder / "machine.pt", model, info={})
    return {"text": folder / "words.pt", "cpu": folder / "machine.pt"}


@pytest.fixture(scope="module")
def made(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with two written texts, a CPU run, and nothing but real files otherwise."""
    folder = tmp_path_factory.mktemp("made") / "gallery"
    words = ["--model", models["text"], "--model", f"cpu={models['cpu']}"]
    done = bgpt("gallery", "-o", folder, "-n", 2, "--seed", 5, "--dtype", "float32", *words)
    assert "text .txt: 2 written" in done.stdout
    assert f"{folder / 'index.html'}: open it in a browser\n" in done.stdout
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gallery.json").read_text())
    return found


def room(folder: Path, name: str) -> dict[str, Any]:
    (found,) = [room for room in manifest(folder)["rooms"] if room["name"] == name]
    return dict(found)


def test_every_modality_has_real_files_and_one_with_a_checkpoint_written_ones(made: Path) -> None:
    kinds = {
        (one["name"], kind["extension"]): (len(kind["written"]), len(kind["real"]))
        for one in manifest(made)["rooms"]
        for kind in one["kinds"]
    }
    wanted = {("audio", "wav"), ("image", "bmp"), ("music", "abc"), ("music", "mid")}
    assert {kinds[kind] for kind in wanted} == {(0, 2)}
    assert kinds["text", "txt"][0] == 2
    for one in manifest(made)["rooms"]:
        for kind in one["kinds"]:
            for row in (*kind["written"], *kind["real"]):
                assert (made / row["file"]).stat().st_size == row["bytes"]
                assert (row["bits_per_byte"] is None) == (one["name"] != "text" or not row["bytes"])


def test_a_broken_modality_leaves_its_room_out_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, build = registry.load, gallery.build

    def load_some(name: str) -> Modality:
        if name == "image":
            raise UserError("modality image: cannot be loaded")
        return load(name)

    def build_some(modality: Modality, *rest: Any) -> Room:
        if modality.name == "audio":
            raise Broken("modality audio: its judge gives nothing")
        return build(modality, *rest)

    monkeypatch.setattr(registry, "load", load_some)
    monkeypatch.setattr(gallery, "build", build_some)
    done = bgpt("gallery", "-o", tmp_path / "gallery", "-n", 1, "--json", code=1)
    assert done.stderr.splitlines() == [
        "modality image: cannot be loaded; its room is left out",
        "modality audio: its judge gives nothing; its room is left out",
    ]
    report = json.loads(done.stdout)
    assert len(report["left_out"]) == 2
    rooms = {one["name"] for one in manifest(tmp_path / "gallery")["rooms"]}
    assert "text" in rooms
    assert not rooms & {"image", "audio"}


def test_a_modality_without_a_checkpoint_says_so_in_a_line(made: Path) -> None:
    (note,) = room(made, "audio")["notes"]
    assert note.startswith("No checkpoint for audio is here, so only real files are shown")
    assert note in (made / "index.html").read_text()
    assert room(made, "text")["notes"] == []


def test_the_page_says_how_everything_was_made(made: Path, models: dict[str, Path]) -> None:
    text = (made / "index.html").read_text()
    for fact in ("3 updates in 1 min", "licence: public domain", "7.500 bits per byte"):
        assert fact in text
    assert "temperature 1.0, seeds 5 to 6" in text
    assert "digits and letters of Asterisk" in text
    assert "CC-BY-SA 3.0" in text
    assert "Allison Smith" in (made / "audio" / "ATTRIBUTION.md").read_text()
    again = f"bgpt gallery -o {made} -n 2 --seed 5 --temperature 1 --model {models['text']} --model"
    assert again in text
    assert models["cpu"].name in text


def test_the_cpu_run_is_that_of_the_model_beside_the_oracle(made: Path) -> None:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page(made))
    data = json.loads(found[0])
    assert data["sides"] == ["oracle", "model"]
    assert [one["name"] for one in data["programs"]] == ["program 1", "program 2"]
    counts = manifest(made)["cpu"]
    assert counts["programs"] == 2
    assert counts["wrong_instructions"] > 0  # its weights are random
    assert f"0 of {counts['programs']}" in page(made)


def page(folder: Path) -> str:
    return (folder / "index.html").read_text()


def test_one_written_file_can_be_made_again_alone(
    made: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    for row in room(made, "text")["kinds"][0]["written"]:
        words = ["--ext", "txt", "--seed", row["seed"], "-o", tmp_path, "--dtype", "float32"]
        bgpt("generate", "--model", models["text"], *words, "--force")
        assert (tmp_path / "generated-001.txt").read_bytes() == (made / row["file"]).read_bytes()


def test_a_model_that_converts_shows_that_beside_what_it_should_have_made(tmp_path: Path) -> None:
    about = {"kind": "media", "modality": "music", "convert": "abc&mid"}
    model = random_model(patch_size=16, max_patches=150)
    checkpoint.save(tmp_path / "both.pt", model, info={"data": about})
    out = tmp_path / "gallery"
    words = ["--model", tmp_path / "both.pt", "--dtype", "float32"]
    report = json.loads(bgpt("gallery", "-o", out, "-n", 1, *words, "--json").stdout)
    music = room(out, "music")
    assert music == next(one for one in report["rooms"] if one["name"] == "music")
    assert music["model"] is None
    assert music["converter"]["checkpoint"] == str(tmp_path / "both.pt")
    kinds = {kind["title"]: kind for kind in music["kinds"]}
    assert list(kinds) == [".abc", ".mid", ".abc to .mid", ".mid to .abc"]
    for source, target in (("abc", "mid"), ("mid", "abc")):
        kind = kinds[f".{source} to .{target}"]
        assert (kind["extension"], kind["converted_from"]) == (target, source)
        (made,), (real,) = kind["written"], kind["real"]
        given, wanted = (
            (out / kinds[f".{extension}"]["real"][0]["file"]).read_bytes()
            for extension in (source, target)
        )
        assert (out / real["file"]).read_bytes() == wanted
        expected = convert(model, given, source, target)
        assert (out / made["file"]).read_bytes() == expected.data
        assert made["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-3)
        patches = encode_conversion(given, source, wanted, target, 16)
        first = 2 + -(-len(given) // 16)
        bits = predict_patches(model, patches, np.arange(first, len(patches)), torch.float32).bits
        assert real["bits_per_byte"] == pytest.approx(bits.sum() / len(wanted), rel=1e-3)
        assert made["compared"] == "its notes cannot be read"
    page = (out / "index.html").read_text()
    assert "Its notes cannot be read" in page
    assert f"--model {tmp_path / 'both.pt'} --modality music" in page
    said = refused("gallery", "-o", tmp_path / "x", *words, *words[:2])
    assert "both convert music; leave one out" in said


def test_where_two_files_part_is_told_by_their_modality_or_by_their_bytes() -> None:
    music = registry.load("music")
    tune = b"X:1\nL:1/8\nM:2/4\nK:G\nGABc|\n"
    other = tune.replace(b"B", b"d")
    assert gallery._told(music, tune, tune, "abc") == "all 4 notes are right"
    assert gallery._told(music, tune, other, "abc") == (
        "3 of 4 notes right; they part at bar 1, beat 2"
    )
    assert gallery._told(music, midi(), b"MThd", "mid") == "its notes cannot be read"
    text = registry.load("text")
    assert gallery._told(text, b"abc", b"abc", "txt") == "every byte is right"
    assert gallery._told(text, b"abc", b"abd", "txt") == "they part at byte 2"
    assert gallery._told(text, b"abc", b"ab", "txt") == "they part at byte 2"


def test_only_a_gallery_is_replaced_and_only_by_force(made: Path, tmp_path: Path) -> None:
    before = page(made)
    assert refused("gallery", "-o", made).endswith("already exists; use --force to replace it")
    assert page(made) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for force in ([], ["--force"]):
        said = refused("gallery", "-o", other, *force)
        assert said.startswith(f"{other}: holds something other than a gallery; name another")
    assert (other / "thesis.txt").read_text() == "mine"
    (mine := made / "thesis.txt").write_text("mine")
    said = refused("gallery", "-o", made, "--force")
    assert said == f"{mine}: is no part of a gallery; move it away first"
    assert mine.read_text() == "mine"
    mine.unlink()


def test_interrupted_it_leaves_what_was_there_and_nothing_else(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(made.parent.rglob("*"))
    monkeypatch.setattr(gallery, "build", stop)
    monkeypatch.setattr(gallery, "writer_of", lambda name: made / f"no-{name}.pt")
    assert bgpt("gallery", "-o", made, "--force", code=130).stderr == "interrupted\n"
    assert sorted(made.parent.rglob("*")) == before


def test_a_whole_new_gallery_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "writer_of", lambda name: tmp_path / f"no-{name}.pt")
    monkeypatch.setattr(gallery, "build", lambda modality, *_: empty(modality.name))
    bgpt("gallery", "-o", tmp_path / "new")
    (tmp_path / "new" / "image").mkdir(exist_ok=True)
    (tmp_path / "new" / "image" / "stale").write_text("old")
    said = json.loads(bgpt("gallery", "-o", tmp_path / "new", "--force", "--json").stdout)
    assert said["folder"] == str(tmp_path / "new")
    assert "cpu" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert not (tmp_path / "new" / "image" / "stale").exists()


def empty(name: str) -> Room:
    return Room(name, "nothing", None, [], [])


def test_wrong_options_are_refused_in_a_sentence(models: dict[str, Path], tmp_path: Path) -> None:
    out = ["gallery", "-o", tmp_path / "x"]
    said = refused(*out, "--model", models["cpu"])
    assert "does not say what it learned to write" in said
    assert f"={models['cpu']}" in said
    said = refused(*out, "--model", models["text"], "--model", f"text={models['text']}")
    assert "both write text; leave one out" in said
    assert "temperature -1" in refused(*out, "--temperature", -1)
    assert "no such" in refused(*out, "--model", tmp_path / "none.pt")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"kind": "media", "modality": "audio"}, "audio"),
        ({"kind": "generated CPU traces"}, "cpu"),
        ({"kind": "recorded CPU traces"}, "cpu"),
        ({"kind": "files", "extensions": ["bmp"]}, "image"),
        ({"kind": "files", "extensions": ["wav"]}, "audio"),
    ],
)
def test_a_checkpoint_belongs_where_its_data_do(data: dict[str, Any], name: str) -> None:
    assert room_of(Path("m.pt"), {"data": data}) == name


# Tunes may be those of two sets.
@pytest.mark.parametrize(
    "data",
    [None, 7, {}, {"extensions": ["bmp", "wav"]}, {"extensions": ["mid"]}, {"kind": "files"}],
)
def test_one_that_does_not_tell_is_asked_about(data: object) -> None:
    with pytest.raises(UserError, match="does not say what it learned"):
        room_of(Path("m.pt"), {"data": data})


def test_real_files_are_the_held_out_ones_of_the_set_that_was_learned(tmp_path: Path) -> None:
    bgpt("data", "text", "--sample", "--out", tmp_path / "set")
    learned = {"folder": str(tmp_path / "set"), "set": sums(tmp_path / "set")}
    for folder in (learned["folder"], "/no/longer/there"):
        writer = dataclasses.replace(a_writer(), info={"data": {**learned, "folder": folder}})
        found = gallery._real_set(TEXT, writer, gallery.prepared.Stages())
        assert gallery._is_learned(writer, found)
    other = dataclasses.replace(a_writer(), info={"data": {"set": "another"}})
    assert not gallery._is_learned(other, gallery._real_set(TEXT, other, gallery.prepared.Stages()))


def sums(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["sha256"])


TEXT = gallery.registry.load("text")


# What is on the page ------------------------------------------------------------------------


def a_writer() -> Writer:
    model = random_model()
    return Writer(HOSTILE, Path("m.pt"), "0" * 64, 1234, {}, model, torch.float32)


def midi() -> bytes:
    file = mido.MidiFile(ticks_per_beat=480)
    tune = [mido.Message("note_on", note=60 + n, time=0 if n == 0 else 240) for n in range(5)]
    file.tracks.append(mido.MidiTrack(tune))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def bmp() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(out, "BMP")
    return out.getvalue()


def wav() -> bytes:
    path = sorted((AUDIO.sample / "sounds").rglob("*.wav"))[0]
    return AUDIO.read(path)[0].data


CONTENTS = {
    "bmp": bmp(),
    "wav": wav(),
    "abc": TUNE.encode(),
    "mid": midi(),
    "txt": HOSTILE.encode() + b"\x1b[31m\ttab",
    "fax": b"\xff\xfe" + HOSTILE.encode("utf-16-le"),
}


def exhibit(extension: str, data: bytes, **values: Any) -> Exhibit:
    forms = {"mid": midi()} if extension == "abc" else {}
    if extension == "fax":
        forms = {"png": bmp()} if "wrong" not in values else {}
    return Exhibit(f"{HOSTILE}.{extension}", extension, data, 1.25, forms, **values)


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of one file of each kind on both sides, a broken one too, and no CPU."""
    folder = tmp_path_factory.mktemp("hung")
    shelves = [
        Shelf(
            extension,
            [
                exhibit(extension, data, seed=1),
                exhibit(extension, data[:20], seed=2, wrong=f"no {HOSTILE}", ended=False),
            ],
            [exhibit(extension, data)],
        )
        for extension, data in CONTENTS.items()
    ]
    converted = exhibit("mid", CONTENTS["mid"], told=HOSTILE)
    shelves.append(Shelf("mid", [converted], [exhibit("mid", CONTENTS["mid"])], source="abc"))
    what = HOSTILE, HOSTILE
    rooms = [
        Room(
            *("odds", HOSTILE, a_writer(), shelves, [HOSTILE], *what),
            side="test",
            converter=a_writer(),
        ),
        Room("ends", "nothing", None, [Shelf("txt", [], [], untold=HOSTILE)], ["none yet"]),
    ]
    about = gallery_page.About(["bgpt", HOSTILE], datetime(2026, 3, 4, tzinfo=UTC), 1.5)
    gallery_page.write(folder, rooms, None, Settings(), about)
    return folder


def test_the_page_refers_to_files_beside_it_alone(hung: Path, made: Path) -> None:
    for folder in (hung, made):
        outline = Outline(page(folder))
        targets = [
            str(value)
            for _, attributes in outline.tags
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "poster", "data")
        ]
        ids = {attributes.get("id") for _, attributes in outline.tags}
        for target in targets:
            if target.startswith("#"):
                assert target[1:] in ids
            elif target != "data:,":
                assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", target), target
                assert (folder / target).is_file()
        assert not outline.all("iframe", "object", "embed", "base", "form", "link[rel=stylesheet]")


def test_the_page_has_the_structure_that_a_screen_reader_goes_by(hung: Path, made: Path) -> None:
    for folder in (hung, made):
        outline = Outline(page(folder))
        check_structure(outline)
        assert all(picture["alt"] for picture in outline.all("img"))
        assert all(player["aria-label"] for player in outline.all("audio"))
        assert all("aria-label" in entry for entry in outline.all("pre") if "class" in entry)


def test_each_kind_is_shown_as_what_it_is_and_a_broken_one_as_bytes(hung: Path) -> None:
    kinds = re.findall(r'<li class="(\w+)">', page(hung))
    shown = [kinds[start : start + 3] for start in range(0, len(kinds), 3)]
    assert shown == [
        ["picture", "bytes", "picture"],
        ["sound", "bytes", "sound"],
        ["score", "text", "score"],
        ["roll", "bytes", "roll"],
        ["text", "text", "text"],
        ["picture", "bytes", "picture"],  # in the form that its modality shows it in
        ["roll", "roll"],  # converted
    ]
    assert "piano roll" in page(hung)
    assert "4 notes from C4 to E♭4" in page(hung)


def test_bytes_with_a_form_that_is_text_are_shown_as_that(tmp_path: Path) -> None:
    def card(wrong: str | None) -> gallery_page.Card:
        form = {"tisrc": b"vt|a terminal,\n"}
        exhibit = Exhibit("vt.tibin", "tibin", b"\x1a\x01\0", None, form, wrong)
        return gallery_page._card(tmp_path, "vt", exhibit)

    assert (card(None).kind, card(None).text) == ("text", "vt|a terminal,\n")
    assert card("broken").kind == "bytes"


def test_a_mended_file_is_shown_as_what_it_was_mended_to(tmp_path: Path) -> None:
    exhibit = Exhibit("a.mid", "mid", b"MThd", None, {}, "too short", midi(), seed=3)
    card = gallery_page._card(tmp_path, "a", exhibit)
    assert (card.kind, card.file) == ("roll", "a.mid")
    assert (tmp_path / "a.mid").read_bytes() == b"MThd"
    assert (tmp_path / "a.mid.mid").read_bytes() == midi()
    assert gallery_page._row(card)["mended"] is True


def test_one_file_of_each_kind_is_no_range_of_seeds(tmp_path: Path) -> None:
    room = Room("odds", "nothing", a_writer(), [Shelf("txt", [], [])], [])
    about = gallery_page.About(["bgpt"], datetime(2026, 3, 4, tzinfo=UTC), 1.5)
    for count, seeds, files in (
        (1, "seed 7</dd>", "1 file of"),
        (3, "seeds 7 to 9</dd>", "3 files of"),
    ):
        gallery_page.write(tmp_path, [room], None, Settings(count=count, seed=7), about)
        assert f"temperature 1.0, {seeds}" in page(tmp_path)
        assert f"<dd>{files} each kind, " in page(tmp_path)


def test_what_a_file_holds_is_text_and_no_more(hung: Path) -> None:
    text = page(hung)
    assert "<script>document.title" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "\\x1b[31m" in text


# In a browser -----------------------------------------------------------------------------


@pytest.fixture
def browser(chromium: webdriver.Chrome, hung: Path) -> webdriver.Chrome:
    media(chromium, prefers_reduced_motion="reduce")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.get((hung / "index.html").as_uri())
    return chromium


@in_a_browser
def test_it_opens_without_a_network_and_without_a_word(
    browser: webdriver.Chrome, hung: Path
) -> None:
    assert browser.get_log("browser") == []
    assert browser.title == "What a byte model writes"
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert requested
    assert all(url.startswith((hung.as_uri(), "data:")) for url in requested)


@in_a_browser
def test_pictures_load_sounds_play_and_scores_are_drawn(browser: webdriver.Chrome) -> None:
    loaded = browser.execute_async_script(
        "const done = arguments[0];"
        "const pictures = [...document.images].map((i) => {i.loading = 'eager';"
        "  return i.decode().then(() => i.naturalWidth, () => 0)});"
        "const sounds = [...document.querySelectorAll('audio')].map((a) => new Promise((ok) => {"
        "  a.onloadedmetadata = () => ok(a.duration); a.onerror = () => ok(0);"
        "  a.preload = 'metadata'; a.load()}));"
        "Promise.all([...pictures, ...sounds]).then(done)"
    )
    assert len(loaded) == 4 + 2 + 2 + 2 + 2
    assert all(loaded)
    scores = browser.find_elements(By.CSS_SELECTOR, "figure[data-score] .staff svg")
    assert len(scores) == 2
    notes = browser.execute_script("return document.querySelectorAll('.staff path').length")
    assert notes > 30
    # Its text is at hand, folded away.
    texts = browser.find_elements(By.CSS_SELECTOR, "figure[data-score] details")
    assert [text.get_attribute("open") for text in texts] == [None, None]
    assert "GABc|d2B2" in (texts[0].get_attribute("textContent") or "")


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_has_the_contrast_of_wcag_aa(browser: webdriver.Chrome, scheme: str) -> None:
    if scheme == "print":
        media(browser, "print", prefers_color_scheme="dark")
    else:
        media(browser, prefers_color_scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert len(found) >= 4
    assert [entry for entry in found if entry[0] < (3 if entry[1] else 4.5)] == []


@in_a_browser
def test_a_page_of_320_pixels_scrolls_in_one_direction_only(
    browser: webdriver.Chrome, made: Path
) -> None:
    as_on_a_phone(browser, 320)
    for again in (None, made):
        if again is not None:
            browser.get((again / "index.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 320


@in_a_browser
def test_on_a_phone_the_figures_are_in_sight_and_sizes_stay_on_one_line(
    browser: webdriver.Chrome, made: Path
) -> None:
    as_on_a_phone(browser, 360)
    browser.get((made / "index.html").as_uri())
    cells = browser.execute_script(
        "return [...document.querySelectorAll('.overview tbody td:nth-child(4)')]"
        "  .map((cell) => cell.getBoundingClientRect().right)"
    )
    edge = browser.execute_script(
        "return document.querySelector('.overview').getBoundingClientRect().right"
    )
    assert cells
    assert max(cells) <= edge
    rows = browser.execute_script(
        "return [...document.querySelectorAll('.overview tbody td:last-child > *')]"
        "  .concat([...document.querySelectorAll('figcaption a')])"
        "  .map((text) => text.getClientRects().length)"
    )
    assert set(rows) == {1}


@in_a_browser
def test_keys_step_through_the_cpu_run_only_where_it_has_the_focus(
    browser: webdriver.Chrome, made: Path
) -> None:
    browser.get((made / "index.html").as_uri())
    assert browser.get_log("browser") == []
    status = browser.find_element(By.ID, "status")
    before = status.text
    assert before.startswith("Step ")
    press(browser, Keys.HOME, "n", "j")  # of the page
    assert status.text == before
    browser.execute_script("document.querySelector('#first').focus()")
    press(browser, Keys.HOME)
    assert status.text.startswith("Step 1 of ")
    press(browser, "j", Keys.ARROW_RIGHT)
    assert status.text.startswith("Step 3 of ")
    browser.find_element(By.ID, "back").click()
    assert status.text.startswith("Step 2 of ")


@in_a_browser
def test_paper_shows_how_it_was_made_and_no_players(browser: webdriver.Chrome) -> None:
    media(browser, "print")
    assert not browser.find_element(By.TAG_NAME, "audio").is_displayed()
    assert browser.find_element(By.CSS_SELECTOR, ".staff svg").is_displayed()
    assert browser.execute_script(
        "return document.querySelector('.made dl').getBoundingClientRect().height > 40"
    )
