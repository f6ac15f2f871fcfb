"""The value codec: scipy's sparse matrices and Pillow's images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from faas.values import ValueEncodeError, encode
from PIL import Image
from values_checks import assert_same, round_trip

DENSE = np.array([[1.5, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]])
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("name", FORMATS)
def test_sparse_matrices_arrive_equal(name: str, kind: str) -> None:
    make = getattr(sp, f"{name}_{kind}")
    for dense in (DENSE, DENSE.astype("f4"), DENSE.astype(int), DENSE != 0, DENSE * 1j, np.zeros((2, 3))):
        matrix = make(dense)
        assert_same(matrix, round_trip(matrix))


def test_sparse_parts_arrive_as_they_are() -> None:
    parts = (np.array([1.0, 0, 5]), np.array([2, 0, 2], np.int64), np.array([0, 2, 3], np.int64))
    matrix = sp.csr_array(parts, shape=(2, 3))
    matrix.indices, matrix.indptr = parts[1], parts[2]
    copy = round_trip(matrix)
    assert_same([matrix.indices, matrix.indptr, matrix.data], [copy.indices, copy.indptr, copy.data])


def test_blocks_diagonals_and_repeated_entries_arrive_equal() -> None:
    blocks = sp.bsr_matrix((np.arange(12.0).reshape(3, 2, 2), [0, 1, 0], [0, 2, 3]), shape=(4, 4))
    assert_same(blocks, round_trip(blocks))
    diagonals = sp.diags([[1.0, 2], [3, 4, 5]], [-1, 0])
    assert_same(diagonals, round_trip(diagonals))
    repeated = sp.coo_matrix(([1, 2], ([0, 0], [1, 1])), shape=(2, 2))
    assert round_trip(repeated).nnz == 2
    huge = sp.coo_array(([1], ([10**12], [5])), shape=(10**13, 10))
    assert_same(huge.coords, round_trip(huge).coords)


@pytest.mark.skipif(not hasattr(sp.coo_array((3, 2)), "coords"), reason="this scipy has no arrays of one dimension")
def test_sparse_vectors_arrive_equal() -> None:
    vector = sp.coo_array(np.array([0, 1.5, 0]))
    assert_same(vector.toarray(), round_trip(vector).toarray())
    assert round_trip(vector).shape == (3,)


MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)


def picture(mode: str) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 255, (5, 13, 3), np.uint8)
    colours = Image.fromarray(noise)
    if mode in ("LAB", "RGBX", "La", "RGBa", "PA", "I;16", "LA"):
        image = Image.new(mode, (13, 5))
        image.frombytes(np.random.default_rng(3).integers(0, 255, len(image.tobytes()), np.uint8).tobytes())
        if mode == "PA":
            image.putpalette(bytes(range(48)))
        return image
    return colours.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_arrive_equal(mode: str) -> None:
    image = picture(mode)
    image.info = {"dpi": (72, 72), "icc_profile": b"x"}
    copy = round_trip(image)
    assert type(copy) is Image.Image
    assert copy == image
    assert copy.tobytes() == image.tobytes()
    assert_same(copy.info, image.info)
    if mode == "P":
        assert copy.convert("RGBA") == image.convert("RGBA")


def test_palettes_with_transparency_arrive_equal() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette(bytes(range(16)), "RGBA")
    image.putdata([0, 1, 2, 3])
    assert round_trip(image).convert("RGBA") == image.convert("RGBA")


def test_an_image_from_a_file_arrives_as_pixels() -> None:
    for form in ("PNG", "JPEG", "GIF"):
        file = io.BytesIO()
        picture("RGB").save(file, form)
        opened = Image.open(file)
        copy = round_trip([opened])[0]
        assert type(copy) is Image.Image
        assert copy.tobytes() == opened.tobytes()
        assert copy.convert("RGB") == opened.convert("RGB")


def test_an_image_whose_file_is_cut_short_says_so() -> None:
    file = io.BytesIO()
    picture("RGB").resize((200, 200)).save(file, "JPEG")
    with pytest.raises(ValueEncodeError, match=r"value\[0\]: the image can't be read"):
        encode([Image.open(io.BytesIO(file.getvalue()[:-100]))])


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_arrives_equal(size: Any) -> None:
    assert round_trip(Image.new("RGB", size)) == Image.new("RGB", size)


def test_an_own_kind_of_image_says_so() -> None:
    own = type("Own", (Image.Image,), {})
    with pytest.raises(ValueEncodeError, match=r"Own.*plain PIL\.Image\.Image"):
        encode(own())
