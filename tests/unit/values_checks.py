"""What "without loss" means for the value codec's tests."""

from __future__ import annotations

import collections
import decimal
import math
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from faas.values import decode, encode


def round_trip(value: Any) -> Any:
    return decode(b"".join(encode(value)))


def assert_same(left: Any, right: Any) -> None:
    """Types and values are equal, at every depth; a missing value equals only its own kind."""
    assert type(left) is type(right), f"{type(left)} is not {type(right)}"
    if left is pd.NaT or left is pd.NA or left is np.ma.masked:
        assert left is right
    elif isinstance(left, decimal.Decimal):
        assert str(left) == str(right)
    elif isinstance(left, pd.DataFrame):
        options = {"check_exact": True, "check_freq": True, "check_column_type": True, "check_index_type": True}
        pd.testing.assert_frame_equal(left, right, check_flags=True, **options)
        assert_same(left.index, right.index)
        assert_same(left.columns, right.columns)
        assert_same(left.attrs, right.attrs)
        for place in range(left.shape[1]):
            assert_same(left.iloc[:, place].array, right.iloc[:, place].array)
    elif isinstance(left, pd.Series):
        pd.testing.assert_series_equal(left, right, check_exact=True, check_freq=True, check_flags=True)
        assert_same(left.index, right.index)
        assert_same(left.name, right.name)
        assert_same(left.attrs, right.attrs)
        assert_same(left.array, right.array)
    elif isinstance(left, pd.Index):
        pd.testing.assert_index_equal(left, right, exact=True, check_exact=True)
        assert_same(list(left.names), list(right.names))
        assert getattr(left, "freq", None) == getattr(right, "freq", None)
        if isinstance(left, pd.MultiIndex):
            for one, other in zip(left.levels, right.levels, strict=True):
                assert_same(one, other)
        elif not isinstance(left, pd.RangeIndex):
            assert_same(left.array, right.array)
    elif isinstance(left, pd.api.extensions.ExtensionArray):
        assert left.dtype == right.dtype
        assert repr(left.dtype) == repr(right.dtype)
        assert len(left) == len(right)
        if left.dtype.kind == "O":
            assert_same(list(left), list(right))
        else:
            pd.testing.assert_extension_array_equal(left, right, check_exact=True)
    elif isinstance(left, np.ma.MaskedArray):
        assert_same(np.ma.getdata(left), np.ma.getdata(right))
        assert_same(np.ma.getmaskarray(left), np.ma.getmaskarray(right))
        assert (left.mask is np.ma.nomask) == (right.mask is np.ma.nomask)
        assert left.hardmask == right.hardmask
        assert_same(left.fill_value, right.fill_value)
    elif isinstance(left, np.ndarray | np.generic) and not isinstance(left, np.str_ | np.bytes_):
        assert left.dtype == right.dtype
        assert left.dtype.str == right.dtype.str
        assert left.dtype.isalignedstruct == right.dtype.isalignedstruct
        assert left.shape == right.shape
        if left.dtype.kind == "O" or left.dtype.char == "T":
            assert_same(left.ravel().tolist(), right.ravel().tolist())
        elif left.dtype.char in "gG":
            # Their padding is anything.
            assert np.array_equal(left, right, equal_nan=True)
            assert np.array_equal(np.signbit(left.real), np.signbit(right.real))
        else:
            assert left.tobytes() == right.tobytes() or np.array_equal(left, right)
        if isinstance(left, np.ndarray):
            assert left.flags.f_contiguous == right.flags.f_contiguous or not left.flags.forc
            assert right.flags.writeable
    elif scipy.sparse.issparse(left):
        assert (left.format, left.shape, left.dtype) == (right.format, right.shape, right.dtype)
        for name in ("data", "indices", "indptr", "offsets"):
            if hasattr(left, name) and left.format not in ("lil", "dok"):
                assert_same(np.asarray(getattr(left, name)), np.asarray(getattr(right, name)))
        assert (left != right).nnz == 0 if left.ndim == 2 else np.array_equal(left.toarray(), right.toarray())
    elif isinstance(left, float):
        assert math.copysign(1, left) == math.copysign(1, right)
        assert left == right or (math.isnan(left) and math.isnan(right))
    elif isinstance(left, complex):
        assert_same(left.real, right.real)
        assert_same(left.imag, right.imag)
    elif isinstance(left, dict):
        assert_same(list(left), list(right))
        assert_same(list(left.values()), list(right.values()))
    elif isinstance(left, list | tuple | collections.deque):
        assert getattr(left, "maxlen", None) == getattr(right, "maxlen", None)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, set | frozenset):
        assert left == right
        assert sorted(map(repr, left)) == sorted(map(repr, right))
    elif isinstance(left, int):
        assert left == right
    else:
        assert left == right
        assert repr(left) == repr(right)
