"""Images of a row: what people keep them as becomes a URL, what is none fails its row alone."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batch_magic.errors import CellError, Unsendable
from batch_magic.images import check_max_side, url_of


def file_of(kind: str = "PNG", size: tuple[int, int] = (40, 20), mode: str = "RGB") -> bytes:
    out = BytesIO()
    Image.new(mode, size, 1).save(out, kind)
    return out.getvalue()


def opened(url: str) -> Image.Image:
    """The image in a data URL."""
    head, _, data = url.partition(",")
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{(image.format or '').lower()};base64"
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_file_goes_out_byte_for_byte(kind: str, tmp_path: Path) -> None:
    """The service reads these formats: to write them anew would only lose something."""
    data = file_of(kind)
    path = tmp_path / "a b.bin"
    path.write_bytes(data)
    wanted = base64.b64encode(data).decode()
    for value in (data, bytearray(data), memoryview(data), path, str(path)):
        assert url_of(value) == f"data:image/{kind.lower()};base64,{wanted}"


def test_an_address_is_left_to_the_service() -> None:
    """Nothing is fetched here, and no size is changed."""
    for url in (
        "https://example.org/a.png?b=c",
        "HTTP://example.org/x",
        "data:image/png;base64,AA",
    ):
        assert url_of(f" {url}\n", 10) == url
    assert url_of("data:image/png;base64,AA\nBB") == "data:image/png;base64,AABB"


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM"])
def test_other_formats_are_written_as_png(kind: str) -> None:
    """The service refuses them; nothing is lost on the way."""
    image = opened(url_of(file_of(kind)))
    assert (image.format, image.size) == ("PNG", (40, 20))


@pytest.mark.parametrize(
    ("kind", "mode", "sent"),
    [("PNG", "RGBA", "PNG"), ("JPEG", "RGB", "JPEG"), ("WEBP", "RGB", "WEBP"), ("GIF", "P", "PNG")],
)
def test_a_large_image_is_made_smaller_and_a_small_one_is_not(
    kind: str, mode: str, sent: str
) -> None:
    """The longer side has so many pixels; its own format is kept where that can be."""
    data = file_of(kind, (400, 100), mode)
    image = opened(url_of(data, 200))
    assert (image.format, image.size) == (sent, (200, 50))
    assert url_of(data, 400) == url_of(data)


def test_a_photo_made_smaller_is_the_right_way_up() -> None:
    """A camera says in the file how it was held; the smaller file does not."""
    out, image = BytesIO(), Image.new("RGB", (400, 100))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(out, "JPEG", exif=exif)
    assert opened(url_of(out.getvalue(), 200)).size == (50, 200)


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 6), 200, np.uint8),
        np.full((8, 6, 3), 200, np.int64),
        np.full((8, 6, 4), 200.0),
        np.full((8, 6, 3), 200 / 255),
        np.full((8, 6), 200 / 255, np.float32),
    ],
)
def test_an_array_is_an_image_of_its_values(array: Any) -> None:
    """Height comes first; whole numbers and fractions mean the same light."""
    image = opened(url_of(array))
    assert image.size == (6, 8)
    pixel = image.getpixel((0, 0))
    assert (pixel if isinstance(pixel, int) else pixel[0]) == 200


def test_sixteen_bits_are_brought_to_eight() -> None:
    """Scanners and microscopes give them; all white would be paid for."""
    for value in (Image.new("I;16", (4, 3), 40_000), np.full((3, 4), 40_000, np.uint16)):
        assert opened(url_of(value)).getpixel((0, 0)) == 40_000 // 257
    assert opened(url_of(Image.new("F", (4, 3), 0.5))).getpixel((0, 0)) == 128


def test_files_of_sixteen_bits_are_not_all_white() -> None:
    """A TIFF, and a PNG that is made smaller, are written anew."""
    for kind, most in (("TIFF", 0), ("PNG", 8)):
        out = BytesIO()
        Image.fromarray(np.full((20, 20), 20_000, np.uint16)).save(out, kind)
        assert opened(url_of(out.getvalue(), most)).getpixel((0, 0)) == 20_000 // 257


def test_a_photo_with_a_transparent_part_is_sent_as_png() -> None:
    """JPEG has none."""
    image = Image.open(BytesIO(file_of("JPEG")))
    image.putalpha(100)
    assert opened(url_of(image)).mode == "RGBA"


def test_a_picture_of_any_mode_is_sent() -> None:
    """Pillow holds more than a PNG can."""
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"):
        assert opened(url_of(Image.new(mode, (4, 3)))).size == (4, 3)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere.png", "there is no image file 'nowhere.png'"),
        ("/dev/zero", "there is no image file '/dev/zero'"),
        ("a\0b", "image"),
        ("x" * 5000, "image"),
        (b"", "it is no image that can be read"),
        (b"<script>", "cannot identify image file it"),
        (file_of()[:-20], "it is no image that can be read"),
        (np.zeros((0, 3)), "give an address, a path"),
        (np.zeros((3, 3, 2)), "give an address, a path"),
        (np.array(["a"]), "give an address, a path"),
        (np.full((2, 2), 300), "0 to 255"),
        (np.full((2, 2), np.nan), "0 to 255"),
        (object(), "a value of type object is no image"),
        ([[1, 2], [3]], "is no image"),
        ("~nosuchuser/x.png", "image"),
        ("http://a.org/b c.png", "holds white space"),
        ({"url": "x"}, "a value of type dict is no image"),
    ],
)
def test_what_is_no_image_says_why(value: Any, said: str) -> None:
    """Its row fails alone; a file that is not an image is never sent."""
    with pytest.raises(Unsendable) as caught:
        url_of(value)
    assert said in str(caught.value)


def test_a_text_file_is_not_sent_as_an_image(tmp_path: Path) -> None:
    """A path comes with the data: it must not carry a secret out."""
    secret = tmp_path / "id_rsa"
    secret.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(Unsendable) as caught:
        url_of(str(secret))
    assert "BEGIN" not in str(caught.value)


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: file_of()[:60] + tail))
def test_any_bytes_are_an_image_or_say_why(data: bytes) -> None:
    """Decoders raise whatever they please; we do not."""
    try:
        told = url_of(data, 16)
    except Unsendable as error:
        told = f"{error}"
    assert "0x" not in told or told.startswith("data:image/")


def test_a_size_is_a_number_of_pixels() -> None:
    """Anything else is refused before a row is read."""
    check_max_side(1024)
    for wrong in (-1, 1.5, "10", True):
        with pytest.raises(CellError, match="say a number of pixels"):
            check_max_side(wrong)  # type: ignore[arg-type]
