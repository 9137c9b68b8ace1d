"""Pictures of every kind that users have become 32 x 32 BMP, or are refused by name."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cpusim.errors import UserError
from media.image import IMAGE
from media.modality import Item


def pixels(path: Path) -> np.ndarray:
    """What the modality makes of a file, (32, 32, 3)."""
    (item,) = IMAGE.read(path)
    assert item.name == f"{path.stem}.bmp"
    assert IMAGE.judge(item.data, "bmp") is None
    assert len(item.data) == 3126
    return np.asarray(Image.open(io.BytesIO(item.data)))


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_a_bmp_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = save(tmp_path / "a.bmp", Image.fromarray(values))
    assert (pixels(path) == values).all()
    assert IMAGE.read(path)[0].data == path.read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"])
def test_every_mode_shows_its_colour(mode: str, tmp_path: Path) -> None:
    red = Image.new("RGB", (64, 48), (250, 10, 10)).convert(mode, dither=Image.Dither.NONE)
    form = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    found = pixels(save(tmp_path / f"red.{form}", red))
    expected = np.asarray(red.convert("RGB"))[0, 0].astype(int)
    assert (np.abs(found.astype(int) - expected) <= 3).all()


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((40, 40), 0x8000, np.uint16))
    assert (pixels(save(tmp_path / "grey.png", grey)) == 128).all()
    light = Image.fromarray(np.full((40, 40), 0.5, np.float32))
    assert (pixels(save(tmp_path / "light.tif", light)) == 128).all()


@pytest.mark.parametrize(
    ("form", "kind", "most", "shade"),
    [
        ("png", np.uint16, 65535, 255),
        ("png", np.uint16, 4095, 16),
        ("tif", np.uint16, 255, 255),
        ("tif", np.uint16, 4095, 255),
        ("tif", np.uint16, 65535, 255),
        ("tif", np.uint16, 0, 0),
        ("tif", np.int32, 255, 255),
        ("tif", np.int32, 65535, 255),
        ("tif", np.int32, 2**31 - 1, 255),
        ("tif", np.float32, 1, 255),
        ("tif", np.float32, 3e38, 255),
        ("tif", np.float32, 0.5, 128),
    ],
)
def test_white_is_what_the_format_says_or_as_many_bits_as_the_values_need(
    form: str, kind: type, most: float, shade: int, tmp_path: Path
) -> None:
    values = np.zeros((32, 32), kind)
    values[:, 16:] = most
    found = pixels(save(tmp_path / f"grey.{form}", Image.fromarray(values)))
    assert (found[:, :15] == 0).all()
    assert (found[:, 17:] == shade).all()


@given(st.integers(1, 2**31 - 1), st.integers(0, 255))
def test_whole_numbers_of_any_size_are_neither_cut_off_nor_lost(most: int, share: int) -> None:
    values = np.full((32, 32), most, np.int32)
    values[:, :16] = most * share // 255
    out = io.BytesIO()
    Image.fromarray(values).save(out, "TIFF")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.tif"
        path.write_bytes(out.getvalue())
        found = pixels(path).astype(int)
    assert (found[:, 17:] >= (64 if most > 127 else most)).all()
    assert (np.abs(found[:, :14] - values[0, 0] / most * found[0, -1]) <= 1).all()


def test_a_tiff_of_32_bits_without_a_sign_has_none(tmp_path: Path) -> None:
    values = np.full((32, 32), -1, np.int32)
    values[:16] = 2**31 - 1
    path = save(tmp_path / "sums.tif", Image.fromarray(values))
    signed, unsigned = (bytes([83, 1, 3, 0, 1, 0, 0, 0, kind, 0]) for kind in (2, 1))
    assert (pixels(path)[[0, 31]] == [[[255]], [[0]]]).all()
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    assert (pixels(path)[[0, 31]] == [[[127]], [[255]]]).all()


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_black_and_what_is_below_zero_too(tmp_path: Path) -> None:
    values = np.ones((32, 32), np.float32)
    values[:8], values[8:16], values[16:24] = np.nan, -np.inf, np.inf
    values[24:28] = -3
    found = pixels(save(tmp_path / "holes.tif", Image.fromarray(values)))
    assert (found[[0, 1, 10, 12, 25, 26]] == 0).all()
    assert (found[[18, 21, 30, 31]] == 255).all()
    for nothing in (np.nan, np.inf, -1):
        path = save(tmp_path / "no.tif", Image.fromarray(np.full((9, 9), nothing, np.float32)))
        with pytest.raises(UserError, match=r"no\.tif: cannot be read as a picture; leave it out"):
            IMAGE.read(path)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (32, 32), (9, 9, 9, 0))
    assert (pixels(save(tmp_path / "clear.png", clear)) == 255).all()
    palette = Image.new("P", (32, 32), 0)
    assert (pixels(save(tmp_path / "p.png", palette, transparency=0)) == 255).all()


def test_a_wide_picture_is_cut_to_its_middle_and_turned_as_it_was_held(tmp_path: Path) -> None:
    values = np.zeros((32, 96, 3), np.uint8)
    values[:, 32:64] = 200
    assert (pixels(save(tmp_path / "wide.png", Image.fromarray(values))) == 200).all()
    half = np.zeros((32, 32, 3), np.uint8)
    half[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    found = pixels(save(tmp_path / "held.png", Image.fromarray(half), exif=exif))
    assert (found[:16] == 0).all()
    assert (found[16:] == 255).all()


def test_of_an_animation_the_first_picture_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (255, 0)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (pixels(path)[..., 0] == 255).all()


@pytest.mark.parametrize("data", [b"", b"BM", b"\x89PNG\r\n\x1a\n and no more", b"hello there"])
def test_what_is_no_picture_is_refused_in_one_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.png: cannot be read as a picture; leave it out, or"):
        IMAGE.read(path)


def test_a_picture_cut_short_or_far_too_large_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    path = save(tmp_path / "short.png", Image.fromarray(values))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UserError, match=r"short\.png: cannot be read as a picture"):
        IMAGE.read(path)
    huge = save(tmp_path / "huge.png", Image.new("1", (20_000, 20_000)))
    with pytest.raises(UserError, match=r"huge\.png: is too large as a picture"):
        IMAGE.read(huge)


@given(st.binary(max_size=80), st.integers(0, 3126))
def test_any_bytes_are_judged(tail: bytes, cut: int) -> None:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), "white").save(out, "BMP")
    good = out.getvalue()
    for data in (tail, b"BM" + tail, good[:cut], good[:cut] + tail):
        verdict = IMAGE.judge(data, "bmp")
        assert verdict is None or verdict
        if verdict is None:
            assert IMAGE.show(data, "bmp")["png"].startswith(b"\x89PNG")
    assert (IMAGE.judge(good[:cut], "bmp") is None) == (cut == len(good))


def samples(count: int) -> list[np.ndarray]:
    """Pictures of the sample, (32, 32, 3), no two the same."""
    items = IMAGE.items(IMAGE.sample, lambda _done, _total: None)
    data = {item.data: None for item in items if isinstance(item, Item)}
    return [np.asarray(Image.open(io.BytesIO(bmp))) for bmp in list(data)[:count]]


def keys(path: Path, picture: np.ndarray, **options: object) -> set[str]:
    """Those of a picture saved there."""
    return set(IMAGE.read(save(path, Image.fromarray(picture), **options))[0].keys)


def test_a_picture_saved_in_another_form_and_place_shares_a_key(tmp_path: Path) -> None:
    for number, picture in enumerate(samples(60)):
        plain = keys(tmp_path / f"{number}.png", picture)
        assert plain & keys(tmp_path / f"other {number}.jpg", picture, quality=90)
        faint = (picture // 3).repeat(6, 0).repeat(6, 1)
        plain = keys(tmp_path / f"large {number}.bmp", faint)
        assert plain & keys(tmp_path / f"larger {number}.jpg", faint, quality=60)


def test_other_pictures_share_none_faint_and_flat_ones_neither(tmp_path: Path) -> None:
    clear = samples(40)
    faint = [220 + picture // 12 for picture in clear]
    flat = [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 1, 2, 254, 255)]
    found = [
        keys(tmp_path / f"{number}.png", picture)
        for number, picture in enumerate([*clear, *faint, *flat])
    ]
    assert len(set().union(*found)) == sum(map(len, found))


def test_the_same_name_in_one_folder_is_the_same_picture(tmp_path: Path) -> None:
    dark, light = (np.full((32, 32, 3), shade, np.uint8) for shade in (0, 255))
    (tmp_path / "other").mkdir()
    one = keys(tmp_path / "photo22.png", dark)
    assert one & keys(tmp_path / "photo22.jpg", light)
    assert not one & keys(tmp_path / "photo23.jpg", light)
    assert not one & keys(tmp_path / "other" / "photo22.jpg", light)
