"""scipy: sparse matrices and arrays. What decides where compiled code reads is checked before scipy gets to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, integers
from .numpy_arrays import decode_array
from .packages import load

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "encoder_for"]

_COMPRESSED = ("csr", "csc", "bsr")
_LARGEST_SIDE = 2**62
_INT32 = 2**31


def encoder_for(kind: type) -> Callable[[Encoder, Any], Node] | None:
    """The function that encodes values whose type is exactly `kind`."""
    return _encode if kind in _kinds().values() else None


@lru_cache(maxsize=1)
def _kinds() -> dict[tuple[str, str], Any]:
    sparse = load("scipy.sparse")
    formats = (*_COMPRESSED, "coo", "dia", "lil", "dok")
    return {(name, shape): getattr(sparse, f"{name}_{shape}") for name in formats for shape in ("matrix", "array")}


def _encode(encoder: Encoder, value: Any) -> Node:
    kind = "array" if type(value) is _kinds()[value.format, "array"] else "matrix"
    node: dict[str, Node] = {TAG: "sp.sparse", "format": value.format, "kind": kind}
    # The two that are made of Python objects travel in the form that they are built from.
    stored = value.tocsr() if value.format == "lil" else value.tocoo() if value.format == "dok" else value
    node["shape"] = [int(side) for side in stored.shape]
    node["data"] = encoder.child(".data", stored.data)
    if stored.format in _COMPRESSED:
        places = {"indices": stored.indices, "indptr": stored.indptr}
    elif stored.format == "dia":
        places = {"offsets": stored.offsets}
    else:
        coords = stored.coords if hasattr(stored, "coords") else (stored.row, stored.col)
        return {**node, "coords": [encoder.child(".coords", axis) for axis in coords]}
    return {**node, **{name: encoder.child(f".{name}", part) for name, part in places.items()}}


def _decode(decoder: Decoder, node: Tagged) -> Any:
    name = field(node, "format", str)
    wanted = (name, field(node, "kind", str))
    if wanted not in _kinds():
        raise ValueDecodeError(f"unknown sparse format {name!r:.40}")
    shape = tuple(integers(node, "shape", minimum=0))
    data = decode_array(decoder, node.get("data"))
    if data.dtype.kind not in "biufc" or any(side > _LARGEST_SIDE for side in shape):
        raise ValueDecodeError("a sparse matrix has a wrong dtype or shape")
    stored_as = {"lil": "csr", "dok": "coo"}.get(name, name)
    make = _kinds()[stored_as, wanted[1]]
    if stored_as in _COMPRESSED:
        indices, indptr = _places(decoder, node.get("indices")), _places(decoder, node.get("indptr"))
        _check_compressed(stored_as, shape, data, indices, indptr)
        stored = make((data, indices, indptr), shape=shape)
        if max(shape) < _INT32:
            # scipy may have chosen a smaller type for the indices.
            stored.indices, stored.indptr = indices, indptr
    elif stored_as == "dia":
        offsets = _places(decoder, node.get("offsets"))
        if len(shape) != 2 or any(not -shape[0] <= offset <= shape[1] for offset in offsets.tolist()):
            raise ValueDecodeError("the diagonals of a sparse matrix lie outside of it")
        stored = make((data, offsets), shape=shape)
    else:
        coords = tuple(_places(decoder, axis) for axis in field(node, "coords", list))
        if (
            data.ndim != 1
            or len(coords) != len(shape)
            or any(
                len(axis) != len(data) or (len(axis) and not 0 <= axis.min() <= axis.max() < side)
                for axis, side in zip(coords, shape, strict=True)
            )
        ):
            raise ValueDecodeError("the entries of a sparse matrix lie outside of it")
        stored = make((data, coords), shape=shape)
    return stored if stored_as == name else stored.asformat(name)


def _check_compressed(name: str, shape: tuple[int, ...], data: Any, indices: Any, indptr: Any) -> None:
    # scipy's own check looks at differences, which can overflow, and not at all where the last pointer is 0.
    if not 0 < len(shape) <= 2:
        raise ValueDecodeError("a sparse matrix has a wrong shape")
    rows, columns = (1, *shape)[-2:]
    if name == "csc":
        rows, columns = columns, rows
    if name == "bsr":
        height, width = data.shape[1:] if data.ndim == 3 else (0, 0)
        if 0 in (height, width) or rows % height or columns % width:
            raise ValueDecodeError("the blocks of a sparse matrix don't fit")
        rows, columns = rows // height, columns // width
    elif data.ndim != 1:
        raise ValueDecodeError("the data of a sparse matrix is not one-dimensional")
    if (
        indices.dtype != indptr.dtype
        or len(indptr) != rows + 1
        or len(indices) != len(data)
        or indptr[0] != 0
        or indptr[-1] > len(indices)
        or (indptr[1:] < indptr[:-1]).any()
        or (len(indices) and not 0 <= indices.min() <= indices.max() < columns)
    ):
        raise ValueDecodeError("the entries of a sparse matrix lie outside of it")


def _places(decoder: Decoder, node: Any) -> Any:
    places = decode_array(decoder, node)
    if places.ndim != 1 or places.dtype.str[1:] not in ("i4", "i8") or not places.dtype.isnative:
        raise ValueDecodeError("the places of a sparse matrix are no whole numbers")
    return places


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {"sp.sparse": _decode}
