"""Arrow's compute functions. Those that every audit calls do without `pyarrow.compute`.

That module makes a Python function, with signature and documentation, for each of three hundred: importing it and
letting it go takes as long as scanning three thousand rows. What it would call is called here; what is called seldom
comes from there. The methods of arrays that do the same (``take``, ``cast``, ``flatten``, ...) import it too.
"""

from importlib import import_module
from typing import Any

import pyarrow as pa

try:
    from pyarrow._compute import CastOptions, call_function
except ImportError:  # a pyarrow that keeps them elsewhere
    from pyarrow.compute import CastOptions, call_function


def __getattr__(name: str) -> Any:
    return getattr(import_module("pyarrow.compute"), name)


def cast(values: Any, kind: pa.DataType) -> Any:
    """The values as another type.

    Raises:
        pa.ArrowInvalid: One of them does not fit.
    """
    return call_function("cast", [values], CastOptions.safe(kind))


def take(values: Any, indices: pa.Array) -> Any:
    """The values, or rows of a table, at some places."""
    return call_function("take", [values, indices])


def fill_null(values: Any, value: pa.Scalar) -> Any:
    """The values, with `value` of the same type instead of nulls."""
    return call_function("coalesce", [values, value]) if values.null_count else values


def add(values: Any, number: pa.Scalar) -> Any:
    return call_function("add", [values, number])


def equal(values: Any, value: pa.Scalar) -> Any:
    return call_function("equal", [values, value])


def list_flatten(lists: Any) -> Any:
    """The items of all lists; none of null lists."""
    return call_function("list_flatten", [lists])


def list_value_length(lists: Any) -> Any:
    return call_function("list_value_length", [lists])


def binary_join(lists: Any, separator: pa.Scalar) -> Any:
    """Each list's texts as one; null for a null list, or one that holds a null."""
    return call_function("binary_join", [lists, separator])


def utf8_trim_whitespace(texts: Any) -> Any:
    return call_function("utf8_trim_whitespace", [texts])
