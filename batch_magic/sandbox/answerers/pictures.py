"""What an answerer that reads text alone is told of an image: its size, format and main colour.

Knows data URLs and the formats that the real service takes (PNG, JPEG, WEBP, GIF); refuses to
fetch an address from the net, which is named instead. The trap: an image that cannot be read fails
its row when it runs, not when the file is validated.
"""

import binascii
import re
from base64 import b64decode
from io import BytesIO

from ..refusals import Refusal

_DATA_URL = re.compile(r"data:image/([a-z+]+);base64,", re.IGNORECASE)
_MARKS = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"))
_COLOURS = {
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (220, 20, 20),
    "orange": (255, 140, 0),
    "yellow": (245, 225, 30),
    "green": (30, 150, 40),
    "blue": (30, 60, 220),
    "purple": (130, 40, 160),
    "brown": (120, 70, 30),
    "pink": (250, 150, 190),
}


def describe(url: object) -> str:
    """Return words for the image at `url`. Raises Refusal (400) for what is no image."""
    if not isinstance(url, str) or not url:
        raise _refusal("Invalid image URL.", "invalid_image_url")
    found = _DATA_URL.match(url)
    if found is None:
        if not url.lower().startswith(("http://", "https://")):
            raise _refusal("Invalid image URL.", "invalid_image_url")
        return f"[image at {url}]"
    try:
        data = b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise _refusal("Invalid base64 image_url.", "invalid_base64_image") from None
    kind = _kind(data)
    if kind is None:
        raise _refusal(
            "You uploaded an unsupported image. Please make sure your image has of one the"
            " following formats: ['png', 'jpeg', 'gif', 'webp'].",
            "invalid_image_format",
        )
    return f"[image: {kind}{_seen(data)}]"


def _refusal(message: str, code: str) -> Refusal:
    return Refusal(400, message, code=code)


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for mark, kind in _MARKS if data.startswith(mark)), None)


def _seen(data: bytes) -> str:
    """Return size and main colour, nothing where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return ""
    try:
        image = Image.open(BytesIO(data))
        size = f"{image.width} x {image.height}"
        pixel = tuple(image.convert("RGB").resize((1, 1)).tobytes())
    except Exception:  # the decoders raise whatever they please
        message = "The image data you provided does not represent a valid image."
        raise _refusal(message, "image_parse_error") from None
    return f", {size}, mostly {_name(pixel)}"


def _name(pixel: tuple[int, ...]) -> str:
    def far(name: str) -> int:
        return sum((one - other) ** 2 for one, other in zip(pixel, _COLOURS[name], strict=True))

    return min(_COLOURS, key=far)
