import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_melanoma.data.fingerprint import (
    HASH_BITS,
    NEAR_BITS,
    NearPair,
    fingerprint,
    header_fingerprint,
    near_pairs,
    perceptual_hash,
)


def picture(seed: int, size: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size)))


def distance(first: bytes, second: bytes) -> int:
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


@settings(max_examples=20, deadline=None)
# 520 and more rows are compared in two blocks.
@given(count=st.sampled_from([0, 1, 2, 30, 511, 512, 513, 700]), seed=st.integers(0, 2**32 - 1))
def test_near_pairs_are_those_of_a_plain_search(count, seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, HASH_BITS), np.uint8)
    for row in range(1, count, 3):
        # Like an earlier one but for some bits, on either side of the threshold.
        bits[row] = bits[rng.integers(row)]
        bits[row, rng.choice(HASH_BITS, rng.integers(2 * NEAR_BITS), replace=False)] ^= 1
    hashes = [row.tobytes() for row in np.packbits(bits, axis=1)]
    found = near_pairs(hashes)
    differing = [
        int((bits[:row] != bits[row]).sum(axis=1).min(initial=999)) for row in range(count)
    ]
    wanted = {row: nearest for row, nearest in enumerate(differing) if nearest <= NEAR_BITS}
    assert {pair.later: pair.num_bits for pair in found} == wanted
    for pair in found:
        assert pair.earlier < pair.later
        assert distance(hashes[pair.earlier], hashes[pair.later]) == pair.num_bits


def test_equal_hashes_are_a_pair_of_distance_0():
    assert near_pairs([b"a" * 32, b"b" * 32, b"a" * 32]) == [NearPair(2, 0, 0)]


def test_a_hash_outlives_encoding_and_resizing_and_tells_images_apart():
    hashes = [perceptual_hash(picture(seed)) for seed in range(20)]
    for seed, own in enumerate(hashes):
        small = np.asarray(Image.fromarray(picture(seed)).resize((36, 36)))
        again = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(small, quality=75))
        assert distance(own, perceptual_hash(again)) <= NEAR_BITS
    assert min(distance(a, b) for a in hashes for b in hashes if a != b) > NEAR_BITS


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_image_has_no_hash(level):
    assert perceptual_hash(np.full((32, 32, 3), level, np.uint8)) is None


def test_a_fingerprint_tells_content_size_pixels_and_errors():
    image = simplejpeg.encode_jpeg(np.ascontiguousarray(picture(1)[:40]), quality=94)
    found, header = fingerprint(image), header_fingerprint(image)
    assert (found.width, found.height, found.error) == (48, 40, None)
    assert header == found._replace(pixels=None, hash=None)
    assert fingerprint(image[:500]).error is not None
    assert "expected a JPEG or PNG image" in (fingerprint(b"text").error or "")
    assert "expected a JPEG or PNG image" in (header_fingerprint(b"text").error or "")
