"""Image bytes to pixels: (size, size, 3) uint8 RGB, whatever the file.

JPEG goes through libjpeg-turbo, scaled in the DCT when the target is smaller. What that cannot read
right (PNG, CMYK, an EXIF rotation) goes through Pillow. An image that is not square is squeezed, as
Kaggle's shards are. Both release the GIL, so threads decode side by side.
"""

import io
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

#: Pixels above which an image is refused unread: the largest ISIC image has 24 million.
MAX_PIXELS = 100_000_000

_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# The bytes of a JPEG that begin a segment, and those that tell which (ITU-T T.81, table B.1).
_MARKER, _APP1 = 0xFF, 0xE1
# What may stand ahead of Exif's segment: others of applications, comments and fill bytes.
_AHEAD = frozenset([*range(0xE0, 0xF0), 0xFE, _MARKER])


# What turns an image upright, by its Exif orientation (Exif 2.32, table 6).
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """Bytes that are no image that can be read."""


def decode_image(data: bytes | memoryview, size: int) -> NDArray[np.uint8]:
    """Return the image as (size, size, 3) uint8 RGB.

    Args:
        data: a JPEG (baseline, progressive, grey, CMYK, with EXIF rotation) or PNG file, or a view
            of one.
        size: pixels of a side.

    Raises:
        ImageError: no image, a damaged one, or one above `MAX_PIXELS`.
    """
    pixels = np.empty((size, size, 3), np.uint8)
    decode_into(data, pixels)
    return pixels


def decode_into(
    data: bytes | memoryview, out: NDArray[np.uint8], length: int | None = None
) -> None:
    """Decode an image into the place where it is wanted, without a copy where none is needed.

    Args:
        data: what `decode_image` takes, and any bytes behind it: with 3 kB of them a JPEG of 20 kB
            is decoded 1 to 2 % faster.
        out: (size, size, 3) uint8, contiguous; RGB afterwards. After an error its content is
            undefined.
        length: bytes of `data` that are the image; None for all.

    Raises:
        ImageError: as `decode_image` does.
    """
    size, image = len(out), data[:length]
    if _is_plain_jpeg(image):
        # libjpeg-turbo takes its slow way through Huffman codes where fewer than 512 bytes a block
        # are left (jdhuff.c). It stops at the end that an image has, whatever follows.
        source = data if image[-2:] == _JPEG_END else image
        try:
            # Most images come out at the wanted size: then this is all.
            pixels = simplejpeg.decode_jpeg(source, min_height=size, min_width=size, buffer=out)
            if pixels.shape == out.shape:
                return
        except ValueError:
            # Of another size than fits, CMYK, or damaged: what follows tells, and says so.
            pass
    out[...] = _resized(_decode(image, min_size=size), size)


def decode_whole(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Return the image at its own size, (H, W, 3) uint8 RGB.

    Args:
        data: what `decode_image` takes.

    Raises:
        ImageError: as `decode_image` does.
    """
    # 0: nothing asks for less than the whole.
    return _decode(data, min_size=0)


def _decode(data: bytes | memoryview, *, min_size: int) -> NDArray[np.uint8]:
    # A `min_size` above 0 lets the decoder scale down, to sides of at least so many pixels.
    if _is_plain_jpeg(data):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            _check_pixels(height, width)
            if colorspace not in ("CMYK", "YCCK"):
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                    data, min_height=min_size, min_width=min_size
                )
                return pixels
        except ImageError:
            raise
        except ValueError as error:
            raise ImageError(f"expected a whole JPEG, found a damaged one ({error})") from error
    return _decode_by_pillow(data)


def _is_plain_jpeg(data: bytes | memoryview) -> bool:
    return data[:3] == _JPEG_MAGIC and not _has_exif(data)


def _has_exif(data: bytes | memoryview) -> bool:
    # Walks the segments ahead of the tables (Exif 2.32, section 4.5.4): a search for the text would
    # cost a thirtieth of decoding.
    at = 2
    while at + 4 <= len(data) and data[at] == _MARKER and data[at + 1] in _AHEAD:
        if data[at + 1] == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return True
        if data[at + 1] == _MARKER:
            # A fill byte.
            at += 1
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def _decode_by_pillow(data: bytes | memoryview) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            _check_pixels(image.height, image.width)
            upright = _turned_upright(image)
            if upright.mode.startswith("I"):
                # 16-bit grey: Pillow's own conversion clips instead of scaling.
                return np.stack([(np.asarray(upright) >> 8).astype(np.uint8)] * 3, axis=-1)
            return np.asarray(upright.convert("RGB"))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"expected a JPEG or PNG image, found {len(data)} bytes that begin with "
            f"{bytes(data[:8])!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"expected at most {MAX_PIXELS:,} pixels, found more; is it a decompression bomb?"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(
            f"expected a whole JPEG or PNG image, found a damaged one ({error})"
        ) from error


def _turned_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (struct.error, SyntaxError, ValueError):
        # What is behind such Exif is an image like others.
        orientation = None
    # Not by Pillow's own function: that writes the rest of Exif anew, and fails where it is odd.
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"expected at most {MAX_PIXELS:,} pixels, found {width} x {height}; "
            "is it a decompression bomb?"
        )


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (size, size):
        return pixels
    # Pillow's bilinear filter widens with the reduction, so it averages instead of skipping pixels.
    # Of its filters it is the nearest to a full decode and area resize behind a DCT that scaled:
    # 1.4 levels on average at 256 pixels, box 2.3 (12 images of 1022 x 767).
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)
