"""An image of a row as the URL that a request carries.

It knows what people keep images as (addresses, paths, bytes, Pillow's images, arrays) and which
formats the service reads (PNG, JPEG, WEBP, GIF); it refuses to fetch anything from the net: an
address is the service's to open. The trap is a path: it comes with the data, so what is not an
image is named and never sent, and what has no end (a device) is never read.
"""

from __future__ import annotations

import os
import re
import warnings
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_magic.errors import CellError, Unsendable

if TYPE_CHECKING:
    from PIL.Image import Image

_ADDRESS = re.compile(r"(?:https?://|data:image/)", re.IGNORECASE)
_MAX_FILE_BYTES = 200_000_000  # no job can hold a longer line
_JPEG_QUALITY = 90
_PNG_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
_MODES = (*_PNG_MODES, "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La")
_MAX_BYTE, _MAX_16_BITS = 255, 65_535
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))
_NO_PILLOW = "needs Pillow; pip install pillow"


def check_max_side(max_side: int) -> None:
    """Refuse a size that images cannot be brought to. Raises CellError."""
    if type(max_side) is not int or max_side < 0:
        raise CellError(f"--image-max is {max_side!r:.40}; say a number of pixels")
    if max_side and not _has_pillow():
        raise CellError(f"--image-max {_NO_PILLOW}")


def url_of(value: object, max_side: int = 0) -> str:
    """Return the URL of an image: its address, or its bytes as a `data:` URL.

    `value`: an http address, a path, the bytes of a file, a Pillow image or an array of
    height × width (× 3 or 4), 0 to 255 or, for floats, 0 to 1. With `max_side` its longer side has
    at most so many pixels; an address is left as it is. Raises Unsendable for what is no image.
    """
    if isinstance(value, str) and _ADDRESS.match(value.strip()):
        return _address(value.strip())
    if isinstance(value, (str, os.PathLike)):
        return _of_file(_read(value), max_side)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_file(bytes(value), max_side)
    if not _has_pillow():
        raise Unsendable(f"an image that is a {type(value).__name__} {_NO_PILLOW}")
    from PIL.Image import Image

    is_plain = isinstance(value, Image) and value.mode in _MODES
    image = value if isinstance(value, Image) and is_plain else _of_array(value)
    return _data_url(*_encoded(image, max_side))


def _address(text: str) -> str:
    if text[:5].lower() == "data:":
        return re.sub(r"\s+", "", text)  # base64 comes in lines of 76 characters, too
    if re.search(r"\s", text):
        raise Unsendable(f"{text[:80]!r} is no address: it holds white space")
    return text


def _has_pillow() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


def _read(name: str | os.PathLike[str]) -> bytes:
    path = Path()
    try:
        path = Path(name).expanduser()
        if not path.is_file():
            raise Unsendable(f"there is no image file {str(path)!r}")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise Unsendable(f"image {str(path)!r} has more than {_MAX_FILE_BYTES:,} bytes")
        return path.read_bytes()
    except Unsendable:
        raise
    except Exception as error:  # a path may be an object of anybody's
        raise Unsendable(f"image {str(path)!r} cannot be read: {_said(error)}") from None


def _of_file(data: bytes, max_side: int) -> str:
    kind = _kind(data)
    if not _has_pillow():
        if kind is None:
            raise Unsendable(f"it is no PNG, JPEG, WEBP or GIF, and another image {_NO_PILLOW}")
        return _data_url(data, kind)
    image = _opened(data)
    if kind is None or (max_side and max(image.size) > max_side):
        image = image if image.mode in _MODES else _of_array(image)
        return _data_url(*_encoded(image, max_side))
    return _data_url(data, kind)


def _kind(data: bytes) -> str | None:
    """Return the format, if it is one that the service reads."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for mark, kind in _KINDS if data.startswith(mark)), None)


def _opened(data: bytes) -> Image:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(BytesIO(data)).verify()
            return Image.open(BytesIO(data))  # what was verified cannot be used any more
    except Exception as error:  # the decoders raise whatever they please
        raise Unsendable(f"it is no image that can be read: {_said(error)}") from None


def _encoded(image: Image, max_side: int) -> tuple[bytes, str]:
    """Write an image as a file, in its own format if the service reads it, else as PNG."""
    from PIL import ImageOps

    kind = image.format if image.format in ("JPEG", "WEBP") else "PNG"
    kind = "PNG" if kind == "JPEG" and "A" in image.getbands() else kind
    try:
        image = ImageOps.exif_transpose(image)  # a new file says nothing of how it is to be turned
        if max_side and max(image.size) > max_side:
            image.thumbnail((max_side, max_side))
        if image.mode not in _PNG_MODES:
            image = image.convert("RGB")
        out = BytesIO()
        image.save(out, kind, quality=_JPEG_QUALITY)
    except Exception as error:
        raise Unsendable(f"the image cannot be written: {_said(error)}") from None
    return out.getvalue(), kind.lower()


def _of_array(value: Any) -> Image:
    import numpy as np
    from PIL import Image

    try:
        array = np.asarray(value)
    except Exception as error:
        raise Unsendable(f"a {type(value).__name__} is no image: {_said(error)}") from None
    is_deep = array.dtype == np.uint16 or getattr(value, "mode", "").startswith("I")
    if is_deep and array.size and _MAX_BYTE < array.max() <= _MAX_16_BITS:
        array = array // 257  # as scanners and microscopes give them
    is_flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype.kind not in "buif" or not is_flat or not array.size:
        raise Unsendable(
            f"a value of type {type(value).__name__} is no image; give an address, a path, bytes,"
            " a Pillow image or an array of height x width x 3"
        )
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and array.max() <= 1):
        array = array * 255.0
    if not ((array >= 0) & (array <= 255)).all():
        raise Unsendable("an array is an image if it holds 0 to 255, or floats of 0 to 1")
    return Image.fromarray(
        array.round().astype(np.uint8) if array.dtype.kind == "f" else array.astype(np.uint8)
    )


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def _said(error: Exception) -> str:
    # Pillow names the buffer that it was given by its address in memory.
    text = re.sub(r"<_io\.BytesIO object at \w+>", "it", " ".join(str(error).split()))
    return text or type(error).__name__
