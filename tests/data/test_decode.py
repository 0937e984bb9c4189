import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lightning_melanoma.data.decode import ImageError, decode_image, decode_into, decode_whole

# A picture that is smooth enough for JPEG, and different in every corner.
_ROWS, _COLUMNS = np.mgrid[0:1:64j, 0:1:64j]
PICTURE = (np.stack([_ROWS, _COLUMNS, 1 - _ROWS], axis=-1) * 200 + 20).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(PICTURE)


def distance(pixels: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(pixels.astype(int) - expected).mean()


def test_at_full_scale_pixels_are_libjpeg_turbos_own():
    data = encoded(rgb(), "JPEG", quality=94)
    assert np.array_equal(decode_image(data, 64), simplejpeg.decode_jpeg(data))


@pytest.mark.parametrize(
    "settings",
    [{"quality": 95}, {"quality": 95, "progressive": True}, {"quality": 95, "subsampling": 0}],
)
def test_jpegs_of_every_kind_are_read(settings):
    assert distance(decode_image(encoded(rgb(), "JPEG", **settings), 64), PICTURE) < 3


def test_a_png_is_read_exactly():
    assert np.array_equal(decode_image(encoded(rgb(), "PNG"), 64), PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_grey_image_has_three_equal_channels(kind):
    grey = rgb().convert("L")
    pixels = decode_image(encoded(grey, kind), 64)
    assert pixels.shape == (64, 64, 3)
    assert distance(pixels[..., 0], np.asarray(grey)) < 2
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_sixteen_bit_grey_png_keeps_its_scale():
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = decode_image(encoded(deep, "PNG"), 64)
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)


def test_a_cmyk_jpeg_has_its_colours():
    data = encoded(rgb().convert("CMYK"), "JPEG", quality=95)
    assert distance(decode_image(data, 64), PICTURE) < 5


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_alpha_and_palette_pngs_are_read(mode):
    image = rgb().convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_image(encoded(image, "PNG"), 64), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_undone(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = rgb().transpose(undo[orientation]) if orientation in undo else rgb()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "JPEG", quality=95, exif=exif)
    assert distance(decode_image(data, 64), PICTURE) < 3


# Tags that no camera writes so: text or a negative ratio where a number belongs, and Exif cut off.
ODD_EXIF = {
    "text as width": struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0"),
    "ratio of text": struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0"),
    "float as width": struct.pack("<HHIf", 0x0100, 11, 1, 64.0),
    "offset beyond the end": struct.pack("<HHII", 0x011A, 10, 1, 9999),
}


# Pillow says of every odd tag what is wrong with it, in words of many kinds.
odd_exif_is_warned_of = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def with_exif(data: bytes, entries: bytes, number: int) -> bytes:
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, number) + entries + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@odd_exif_is_warned_of
@pytest.mark.parametrize("odd", ODD_EXIF.values(), ids=ODD_EXIF)
def test_an_exif_rotation_is_undone_beside_odd_tags(odd):
    turn = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    stored = encoded(rgb().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    data = with_exif(stored, b"".join(sorted([turn, odd])), 2)
    assert distance(decode_image(data, 64), PICTURE) < 3


@odd_exif_is_warned_of
@given(st.binary(min_size=1, max_size=60), st.integers(0, 5))
@example(b"\x00\x00\x01\x00\x00\x00\x00\x01", 1)
def test_any_exif_leaves_the_image_readable_or_is_an_image_error(entries, number):
    stored = encoded(rgb(), "JPEG", quality=95)
    pixels = decode_image(with_exif(stored, entries, number), 64)
    assert pixels.shape == (64, 64, 3)


def test_an_image_that_is_not_square_is_squeezed():
    wide = rgb().resize((128, 64))
    pixels = decode_image(encoded(wide, "JPEG", quality=95), 64)
    assert distance(pixels, PICTURE) < 4


@pytest.mark.parametrize("size", [16, 24, 64, 100])
def test_any_size_is_close_to_a_full_decode_and_resize(size):
    big = rgb().resize((256, 256), Image.Resampling.BILINEAR)
    pixels = decode_image(encoded(big, "JPEG", quality=95), size)
    expected = np.asarray(big.resize((size, size), Image.Resampling.BILINEAR))
    assert pixels.shape == (size, size, 3)
    # JPEG's own error at quality 95 is about 1 of 255.
    assert distance(pixels, expected) < 2


def area_resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the mean over exactly the area that each pixel of the result covers."""

    def weights(length: int) -> np.ndarray:
        edges = np.linspace(0, length, size + 1)
        begins, ends = np.arange(length), np.arange(length) + 1
        shared = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], begins)
        return np.maximum(shared, 0) * size / length

    height, width = pixels.shape[:2]
    return np.einsum(
        "ih,hwc,jw->ijc", weights(height), pixels.astype(float), weights(width), optimize=True
    )


def test_scaling_in_the_dct_is_within_half_a_level_of_a_full_decode_and_area_resize():
    # Grain of 8 levels on top of a picture: finer than what is left at a quarter of the size.
    grain = np.random.default_rng(0).normal(0, 8, (1024, 1024, 1))
    big = np.asarray(rgb().resize((1024, 1024), Image.Resampling.BICUBIC)) + grain
    data = encoded(Image.fromarray(big.clip(0, 255).astype(np.uint8)), "JPEG", quality=95)
    expected = area_resized(simplejpeg.decode_jpeg(data), 256)
    # Of 255; 0.33 here, 0.35 for real images.
    assert distance(decode_image(data, 256), expected) < 0.5


_NATIVE = Path(__file__).parents[3] / "shared" / "data" / "native" / "jpeg"


@pytest.mark.slow
@pytest.mark.skipif(not _NATIVE.is_dir(), reason="needs the real images of ../shared/data")
@pytest.mark.parametrize("size", [224, 256, 384])
def test_real_images_are_within_two_levels_of_a_full_decode_and_area_resize(size):
    images = [path.read_bytes() for path in sorted(_NATIVE.glob("*.jpg"))[:4]]
    distances = [
        distance(decode_image(image, size), area_resized(simplejpeg.decode_jpeg(image), size))
        for image in images
    ]
    # 0.7 at 384 pixels to 1.2 at 256, where the DCT leaves 288 x 384 and Pillow does the rest.
    assert np.mean(distances) < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (100, 64), (32, 128), (40, 40)])
def test_an_image_of_any_shape_is_decoded_into_its_place(kind, shape):
    data = encoded(rgb().resize(shape), kind)
    batch = np.full((3, 64, 64, 3), 99, np.uint8)
    decode_into(data, batch[1])
    assert np.array_equal(batch[1], decode_image(data, 64))
    assert (batch[[0, 2]] == 99).all()


@pytest.mark.parametrize("settings", [{}, {"exif": b"Exif\0\0"}, {"progressive": True}])
@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB")])
def test_a_view_among_other_bytes_is_read_as_the_image_alone(kind, mode, settings):
    data = encoded(rgb().convert(mode), kind, **settings)
    view = memoryview(b"before" + data + b"behind")[6:-6]
    for size in (64, 48):
        assert np.array_equal(decode_image(view, size), decode_image(data, size))
    assert np.array_equal(decode_whole(view), decode_whole(data))


def decoded(data: bytes, length: int | None = None) -> np.ndarray | str:
    """Return the pixels of a 64 x 64 image, or what is wrong with it."""
    out = np.zeros((64, 64, 3), np.uint8)
    try:
        decode_into(memoryview(data), out, length)
    except ImageError as error:
        return str(error)
    return out


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"quality": 100}])
@pytest.mark.parametrize("follows", [b"", b"\0", b"\xff\xd9", encoded(rgb(), "JPEG")], ids=len)
def test_what_follows_an_image_changes_nothing(settings, follows):
    rng = np.random.default_rng(0)
    whole = encoded(
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG", **settings
    )
    for data in (whole, encoded(rgb().resize((64, 64)), "PNG"), b"text", b""):
        alone = decoded(data)
        assert np.array_equal(decoded(data + 2000 * follows, len(data)), alone)
    # Cut off anywhere, and with some of its middle lost: an error, and the same one.
    for length in rng.integers(0, len(whole), 60):
        for data in (whole[:length], whole[: length // 2] + whole[length:]):
            alone = decoded(data)
            assert np.array_equal(decoded(data + 2000 * follows, len(data)), alone)
            assert isinstance(alone, str) or data[-2:] == b"\xff\xd9"


def test_exif_is_found_behind_other_segments_and_not_taken_from_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(rgb(), "JPEG", quality=95, exif=exif, comment=b"\xff\xda" * 999)
    assert distance(decode_image(turned, 64), np.rot90(PICTURE, -1)) < 3
    plain = encoded(rgb(), "JPEG", quality=95)
    assert np.array_equal(decode_image(plain + b"Exif\0\0", 64), decode_image(plain, 64))


def test_a_truncated_image_is_an_error():
    for kind in ("JPEG", "PNG"):
        data = encoded(rgb(), kind)
        with pytest.raises(ImageError, match="found a damaged one"):
            decode_image(data[: len(data) * 2 // 3], 64)


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", b"\xff\xd8\xff\xe0", memoryview(b"none")]
)
def test_bytes_that_are_no_image_are_an_error(data):
    with pytest.raises(ImageError, match="expected a"):
        decode_image(data, 64)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_decompression_bomb_is_refused_unread():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
    with pytest.raises(ImageError, match="is it a decompression bomb"):
        decode_image(png, 64)
    jpeg = bytearray(encoded(rgb(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(ImageError, match="60000 x 60000; is it a decompression bomb"):
        decode_image(bytes(jpeg), 64)
