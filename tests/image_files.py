"""Image files of every kind, and files that only look like one."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    """Return the bytes of a file of that kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def huge_png(side: int = 30_000) -> bytes:
    """Return a black PNG of 900 million pixels, of a bit each, in some hundred kilobytes."""
    pixels, row = zlib.compressobj(1), bytes(1 + -(-side // 8))
    data = b"".join([*(pixels.compress(row) for _ in range(side)), pixels.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
