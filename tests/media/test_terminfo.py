"""Terminfo entries: the text and the compiled form of each follow from the other, exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpusim.errors import UserError
from media import prepared, tic
from media.capabilities import ALIKE, Entry, HeldOut, alike, names_of
from media.entries import Entries
from media.modality import Item, LeftOut, Missing
from media.split import assign
from media.terminfo import TERMINFO

pytestmark = pytest.mark.skipif(
    shutil.which("tic") is None or shutil.which("infocmp") is None,
    reason="tic and infocmp of ncurses are not installed",
)
TEXTS = [path.read_bytes() for path in sorted(TERMINFO.sample.glob("*.tisrc"))]
COMPILED = [path.read_bytes() for path in sorted(TERMINFO.sample.glob("*.tibin"))]
SOURCE = b"""# two terminals
lost|lost-vt|a lost terminal,
    am, cols#80, bel=^G, cup=\\E[%i%p1%d;%p2%dH, Xy=\\E]1,
lost-w|a wide one, cols#132, use=lost,
"""


def nothing(_done: int, _total: int) -> None:
    pass


def lines(text: bytes) -> set[bytes]:
    return set(text.split(b"\n")[1:-1])


# The sample and the programs --------------------------------------------------------------


def test_both_forms_of_every_entry_of_the_sample_follow_from_the_other() -> None:
    assert len(TEXTS) == len(COMPILED) > 60
    assert tic.to_compiled_many(TEXTS) == COMPILED
    for text, compiled in list(zip(TEXTS, COMPILED, strict=True))[::6]:
        assert tic.to_text(compiled) == text
        assert tic.to_compiled(text) == compiled
    size = sum(map(len, (*TEXTS, *COMPILED)))
    assert size < 100_000


def test_many_in_one_process_are_what_each_is_alone_whatever_stands_beside_it() -> None:
    wrong = b"bad entry name, am,\n"
    twice = TEXTS[0].replace(b"\n", b"\n\tOTpt,\n", 1)
    made = tic.to_compiled_many([TEXTS[0], wrong, TEXTS[1], twice, TEXTS[0]])
    assert made[0] == made[4] == COMPILED[0]
    assert made[1] is None
    assert made[2] == COMPILED[1]
    assert made[3] not in (None, COMPILED[0])


def test_an_entry_taken_apart_and_put_together_is_the_same() -> None:
    for text in TEXTS:
        assert bytes(Entry.parse(text)) == text
        assert Entry.parse(text).names == names_of(text)


def test_without_the_programs_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Missing, match="infocmp is missing; install ncurses"):
        TERMINFO.judge(COMPILED[0], "tibin")
    with pytest.raises(Missing, match="tic is missing; install ncurses"):
        TERMINFO.judge(TEXTS[0], "tisrc")
    assert TERMINFO.show(TEXTS[0], "tisrc") == {}
    # The sample needs neither.
    assert sum(
        isinstance(one, Item) for one in TERMINFO.items(TERMINFO.sample, nothing)
    ) == 2 * len(TEXTS)


# The default set --------------------------------------------------------------------------


def lay_out(folder: Path, entries: dict[str, bytes]) -> Path:
    """As the package lies on disk."""
    for name, compiled in entries.items():
        path = folder / "usr" / "share" / "terminfo" / name[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(compiled)
    return folder


def test_links_and_repeats_are_no_entries_and_what_is_not_exact_is_left_out(
    tmp_path: Path,
) -> None:
    name = names_of(TEXTS[0])[0]
    folder = lay_out(tmp_path, {name: COMPILED[0], "again": COMPILED[0], "odd": COMPILED[1] + b"x"})
    place = folder / "usr" / "share" / "terminfo"
    (place / "link").symlink_to(place / name[0] / name)
    (place / "README").write_text("no entry")
    (place / "torn").write_bytes(COMPILED[2][:14])
    found = list(TERMINFO.items(folder, nothing))
    assert [(one.name, one.data) for one in found if isinstance(one, Item)] == [
        (f"{name}.tisrc", TEXTS[0]),
        (f"{name}.tibin", COMPILED[0]),
    ]
    assert sorted(one.reason for one in found if isinstance(one, LeftOut)) == [
        "infocmp cannot read it",
        "the same entry again",
        "tic makes other bytes of its text",
    ]


def test_entries_that_share_most_capabilities_stand_on_one_side(tmp_path: Path) -> None:
    rich = max(TEXTS, key=lambda text: len(lines(text)))
    near = b"near|almost the same,\n" + b"\tOTxx@,\n".join(rich.split(b"\n", 1)[1:])
    far = b"far|something else,\n\tam,\n\tcols#80,\n\tbel=^G,\n"
    (near_compiled, far_compiled, rich_compiled) = map(tic.to_compiled, (near, far, rich))
    folder = lay_out(tmp_path, {"near": near_compiled, "far": far_compiled, "r": rich_compiled})
    items = [one for one in TERMINFO.items(folder, nothing) if isinstance(one, Item)]
    _, groups = assign([item.keys for item in items], [None] * len(items))
    by_name = {item.name: group for item, group in zip(items, groups, strict=True)}
    assert by_name["near.tisrc"] == by_name[f"{names_of(rich)[0]}.tibin"]
    assert by_name["far.tisrc"] == by_name["far.tibin"] != by_name["near.tisrc"]


def test_who_is_alike_is_what_counting_says() -> None:
    for one, others in enumerate(alike(TEXTS)):
        for other in range(len(TEXTS)):
            ours, theirs = lines(TEXTS[one]), lines(TEXTS[other])
            shares = len(ours & theirs) >= ALIKE * len(ours | theirs)
            assert (other in others) == (shares and one != other)


# Users' files -----------------------------------------------------------------------------


def test_a_users_text_becomes_the_pairs_of_its_entries_with_what_they_use(tmp_path: Path) -> None:
    path = tmp_path / "mine.ti"
    path.write_bytes(SOURCE)
    items = TERMINFO.read(path)
    assert [item.name for item in items] == [
        *("mine-001.tisrc", "mine-001.tibin", "mine-002.tisrc", "mine-002.tibin")
    ]
    assert items[2].data == (
        b"lost-w|a wide one,\n\tam,\n\tcols#132,\n\tbel=^G,\n"
        b"\tcup=\\E[%i%p1%d;%p2%dH,\n\tXy=\\E]1,\n"
    )
    assert "name lost-vt" in items[0].keys
    assert items[0].keys == items[1].keys


def test_a_users_compiled_file_becomes_the_same_pair_whatever_its_name(tmp_path: Path) -> None:
    for name in ("vt", "vt.tibin", "vt.txt"):
        path = tmp_path / name
        path.write_bytes(COMPILED[3])
        text, compiled = TERMINFO.read(path)
        assert (text.name, text.data) == ("vt.tisrc", TEXTS[3])
        assert (compiled.name, compiled.data) == ("vt.tibin", COMPILED[3])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no clean terminfo text \\(holds no entry\\); leave it out"),
        (b"hello world\n", "whitespace in name or alias field"),
        (b"q|a w, use=nobody-has-this,\n", "resolution of use=nobody-has-this failed"),
        (b"up/../up|a w, am,\n", "slashes aren't allowed"),
        (b"\x1a\x01garbage", "is no clean compiled terminfo entry \\(infocmp cannot read it\\)"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(
    data: bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    path.write_bytes(data)
    with pytest.raises(UserError, match=why) as caught:
        TERMINFO.read(path)
    assert str(caught.value).startswith(f"{path}: is no clean ")


def test_a_users_folder_becomes_a_set_of_pairs(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(8):
        (mine / f"t{number}").write_bytes(COMPILED[7 * number])
    found = prepared.from_files(TERMINFO, mine, tmp_path / "set", prepared.Stages(), lambda _: None)
    for side in ("train", "validation", "test"):
        names = [path.name for path in found.files(side)]
        assert {n.removesuffix(".tisrc") for n in names if n.endswith(".tisrc")} == {
            n.removesuffix(".tibin") for n in names if n.endswith(".tibin")
        }


# Generated files --------------------------------------------------------------------------


def test_generated_files_are_judged_and_shown_in_the_other_form() -> None:
    assert TERMINFO.judge(TEXTS[5], "tisrc") is None
    assert TERMINFO.judge(COMPILED[5], "tibin") is None
    assert TERMINFO.show(TEXTS[5], "tisrc") == {"tibin": COMPILED[5]}
    assert TERMINFO.show(COMPILED[5], "tibin") == {"tisrc": TEXTS[5]}
    assert TERMINFO.judge(b"hello", "tibin") == "no compiled terminfo entry"
    assert TERMINFO.judge(COMPILED[5][:20], "tibin") == "infocmp cannot read it"
    assert "Missing separator" in (TERMINFO.judge(b"a|b c,\n\tbel=x\n", "tisrc") or "")


@settings(max_examples=30)
@given(st.binary(max_size=60))
def test_any_bytes_are_judged_and_nothing_is_written_elsewhere(data: bytes) -> None:
    before = set(Path.cwd().iterdir())
    for extension in ("tisrc", "tibin"):
        for made in (data, b"a|b c,\n\t" + data, tic.MAGIC[0] + data):
            reason = TERMINFO.judge(made, extension)
            assert reason is None or (reason and "\n" not in reason)
            if reason is not None and extension == "tibin":
                assert TERMINFO.show(made, extension) == {}
    assert set(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("name", [b"../../escaped", b"a/../../../escaped", b"/tmp/escaped"])
def test_a_name_that_leads_elsewhere_is_refused(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(tic.Refused):
        tic.to_compiled(name + b"|an entry,\n\tam,\n")
    with pytest.raises(tic.Refused):
        tic.to_compiled(b"good|" + name + b"|an entry,\n\tam,\n")
    assert not list(tmp_path.parent.rglob("escaped"))


# Entries without end ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries() -> Entries:
    return Entries(TEXTS[:50], TEXTS[50:], seed=5)


def test_an_entry_is_a_function_of_seed_and_number(entries: Entries) -> None:
    again = Entries(TEXTS[:50], TEXTS[50:], seed=5)
    numbers = [3, 700, 10**12]
    assert [again.entry(n) for n in numbers] == [entries.entry(n) for n in numbers]
    assert again.sha256 == entries.sha256
    assert Entries(TEXTS[:50], TEXTS[50:], seed=6).entry(3) != entries.entry(3)
    assert entries.entry(3) != entries.entry(3, 1)
    assert Entries(TEXTS[1:50], TEXTS[50:], seed=5).sha256 != entries.sha256


def test_pairs_are_the_same_in_whatever_company_they_are_made(entries: Entries) -> None:
    made = entries.pairs(0, 40)
    assert entries.pairs(20, 5) == made[20:25]
    assert len({text for text, _ in made}) == 40
    assert not {text for text, _ in made} & set(TEXTS)


def test_made_pairs_are_what_tic_and_infocmp_make_of_each_other(entries: Entries) -> None:
    for text, compiled in entries.pairs(100, 40):
        assert tic.to_text(compiled) == text
        assert tic.to_compiled(text) == compiled


def test_numbers_of_both_widths_and_names_of_ones_own_are_made(entries: Entries) -> None:
    made = entries.pairs(1000, 400)
    assert {compiled[:2] for _, compiled in made} == set(tic.MAGIC)
    known = {one.name for text in TEXTS[:50] for one in Entry.parse(text).capabilities}
    assert {one.name for text, _ in made for one in Entry.parse(text).capabilities} - known


def test_nothing_made_is_like_what_is_held_out() -> None:
    # Everything that would be made is held out, but for what the second draw gives.
    first = [text for text, _ in Entries(TEXTS, (), seed=1).pairs(0, 30)]
    held_out = HeldOut(first)
    assert all(held_out.is_like(text) for text in first)
    made = [text for text, _ in Entries(TEXTS, first, seed=1).pairs(0, 30)]
    assert not any(held_out.is_like(text) for text in made)
    names = {name for text in first for name in names_of(text)}
    assert names.isdisjoint(name for text in made for name in names_of(text))


def test_nothing_to_make_entries_of_is_refused() -> None:
    with pytest.raises(UserError, match="no entry to learn from has a capability"):
        Entries([b"nothing|at all,\n"], (), seed=0)


@pytest.mark.parametrize("head", [b"\x1e\x02", b"\x1a\x01"])
def test_an_entry_without_a_name_is_not_valid(head: bytes) -> None:
    assert TERMINFO.judge(head + bytes(40), "tibin") is not None
