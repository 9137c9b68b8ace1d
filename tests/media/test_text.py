"""Text of every kind that users have becomes UTF-8, or is refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpusim.errors import UserError
from media.text import TEXT, decode

LETTER = "Grüße aus Köln.\n日本語も。\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_unicode_of_every_encoding_becomes_utf8(encoding: str, tmp_path: Path) -> None:
    # Without a mark, UTF-16 is known by its zeros, which Latin letters have.
    text = LETTER if encoding not in ("utf-16-le", "utf-16-be") else "Plain English.\r\n"
    path = tmp_path / "letter.txt"
    path.write_bytes(text.encode(encoding))
    (item,) = TEXT.read(path)
    assert item.name == "letter.txt"
    assert item.data == text.replace("\r\n", "\n").encode()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("Grüße".encode("latin-1"), "is no UTF-8 text at byte 2; convert it, for example with"),
        (b"\xff\xfeA", "is cut short, as UTF-16-LE text at byte 2; restore it or leave it out"),
        (b"\xff\xfeA\0\0\xdcB\0", "is damaged, as UTF-16-LE text at byte 4; restore it or"),
        ("Plain".encode("utf-16-be") + b"\0", "is cut short, as UTF-16-BE text at byte 10"),
        ("Привет, мир".encode("utf-16-le"), "holds zero bytes; if it is UTF-16 without a mark"),
        ("Καλημέρα σε όλους\n".encode("utf-16-be"), "holds zero bytes; if it is UTF-16 without"),
        (b"", "holds no text"),
        (b" \n\t\n", "holds no text"),
        (b"PK\x03\x04\0\0 and so on, no text at all", "holds zero bytes, so it is no text"),
    ],
)
def test_what_is_no_text_is_refused_in_one_sentence(
    data: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        TEXT.read(path)
    assert str(caught.value).startswith(f"{path}: {sentence}")


@pytest.mark.parametrize("end", ["LE", "BE"])
def test_how_to_convert_utf16_without_a_mark_is_said_as_it_works(end: str) -> None:
    with pytest.raises(UserError, match=f"convert it with iconv -f UTF-16{end} -t UTF-8, else"):
        decode("Привет, мир\n".encode(f"utf-16-{end}"), "it")


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text = decode(data, "it")
    except UserError:
        with pytest.raises(UserError, match=r"^it: "):
            decode(data, "it")
    else:
        assert decode(text.encode(), "it") == text.removeprefix("\ufeff")


def test_a_long_text_is_cut_into_pages_at_line_ends_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    text = "".join(f"This is line {number} of the book.\n" for number in range(1000))
    path.write_text(text)
    pages = TEXT.read(path)
    assert b"".join(page.data for page in pages).decode() == text
    assert all(len(page.data) <= 8000 and page.data.endswith(b"\n") for page in pages)
    assert pages[0].name == "book-0001.txt"


def test_texts_that_quote_each_other_share_a_key(tmp_path: Path) -> None:
    story = " ".join(f"sentence number {number} says something" for number in range(40))
    other = " ".join(f"quite another {number * 7} matter" for number in range(40))
    keys = []
    for name, text in (("a", story), ("b", f"He said: {story.upper()}!"), ("c", other)):
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        keys.append(set(TEXT.read(path)[0].keys))
    assert keys[0] & keys[1]
    assert not keys[0] & keys[2]


def test_entries_of_fortunes_and_dictionaries_become_pages_of_one_side(tmp_path: Path) -> None:
    fortunes = tmp_path / "pkg" / "usr" / "games" / "fortunes"
    fortunes.mkdir(parents=True)
    jokes = [
        f"_\bJoke {number}: {'ha' * (number % 9 + 1)}\n\t\t-- A. Nonymous\n"
        for number in range(300)
    ]
    (fortunes / "jokes").write_text("%\n".join(jokes))
    (fortunes / "jokes.dat").write_bytes(b"\0\1\2")
    entries = (
        "00-database-info\n  none\n\nbit\n\n   A binary digit.\n\nbyte%%%octet\n   Eight bits.\n\n"
    )
    (tmp_path / "words.dict.dz").write_bytes(gzip.compress(entries.encode()))
    items = list(TEXT.items(tmp_path, lambda _done, _total: None))
    whole = b"\n".join(item.data for item in items).decode()  # type: ignore[union-attr]
    assert all(joke.replace("_\b", "") in whole for joke in jokes)
    assert "bit\n\n   A binary digit.\n" in whole
    assert "byte\noctet\n   Eight bits.\n" in whole
    assert "00-database" not in whole
    assert "\b" not in whole


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"Fine.\n", None),
        (b"", "empty"),
        (b"\xff", "no UTF-8 at byte 0"),
        (b"ring \x07", "holds the control character U+0007"),
    ],
)
def test_generated_text_is_judged(data: bytes, verdict: str | None) -> None:
    assert TEXT.judge(data, "txt") == verdict


def test_tables_of_numbers_are_not_alike_for_want_of_letters(tmp_path: Path) -> None:
    keys = []
    for number in range(3):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"x\n{number} 12.5 13.5 100.25 {number**7}\n")
        keys.append(set(TEXT.read(path)[0].keys))
    assert not keys[0] & keys[1] & keys[2]
