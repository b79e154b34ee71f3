"""Object files loaded without LLVM: what the loops compute stays the same, and what is not understood is left to LLVM."""

import ctypes
import math
import platform
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest

from forge_pipeline.dataset_audit import machine_code, object_code

numba = pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="LLVM loads code here"
)

MODULES = {
    "anchor_kernels": ("anchor_tables", "kernels", "text_kernels"),
    "language_kernels": ("text_kernels", "language_tables", "fasttext_model", "utf8"),
    "join_kernels": (),
    "json_kernels": ("kernels", "json_lines", "signing", "tokens"),
    "kernels": ("signing", "tokens"),
}


@pytest.fixture(scope="module")
def exponential() -> Any:
    """A loop that calls the C library and reads constants."""
    table = (3.0, 5.0, 7.0, 11.0, 13.0, 17.0)

    def exponential(at: Any, value: Any) -> int:
        return int(math.exp(value) * table[at])

    return machine_code._code(machine_code.Loop(exponential, numba.int64(numba.int64, numba.float64)))


def call(address: int, at: int, value: float) -> int:
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double)
    result, raised = ctypes.c_int64(), ctypes.c_void_p()
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
    assert function(ctypes.addressof(result), ctypes.addressof(raised), at, value) == 0
    return result.value


def test_code_with_constants_and_calls_of_the_c_library_does_as_by_llvm(exponential: Any) -> None:
    ours, by_llvm = object_code.load(exponential.object, exponential.symbol), machine_code._address_by_llvm(exponential)
    answers = [(at, value) for at in range(6) for value in (0.0, 1.0, 2.5)]
    assert [call(ours, *answer) for answer in answers] == [call(by_llvm, *answer) for answer in answers]
    assert call(ours, 2, 0.0) == 7


@pytest.mark.parametrize("module", MODULES)
def test_every_loop_of_the_audit_is_loaded_without_llvm(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_llvm(code: Any) -> int:
        raise AssertionError(f"{code.symbol} was left to LLVM")

    monkeypatch.setattr(machine_code, "_address_by_llvm", no_llvm)
    assert machine_code.loops.__wrapped__(module, *MODULES[module])


def changed(place: int, kind: str, value: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        copy = bytearray(content)
        struct.pack_into(kind, copy, place, value)
        return bytes(copy)

    return change


def with_relocations_of(kind: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        copy = bytearray(content)
        for section in object_code._sections(content):
            if section.type == object_code._RELOCATIONS:
                for place in range(section.offset, section.offset + section.size, section.entry_size):
                    struct.pack_into("<I", copy, place + 8, kind)
        return bytes(copy)

    return change


def with_flags(flags: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        copy = bytearray(content)
        (start,) = struct.unpack_from("<Q", content, 40)
        for index, section in enumerate(object_code._sections(content)):
            if section.flags & object_code._IN_MEMORY:
                struct.pack_into("<Q", copy, start + index * object_code._SECTION.size + 8, section.flags | flags)
        return bytes(copy)

    return change


NOT_OURS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no ELF": (lambda content: b"MZ" + content[2:], "no object file"),
    "of 32 bits": (changed(4, "B", 1), "no object file"),
    "a shared library": (changed(16, "<H", 3), "no object file"),
    "of another processor": (changed(18, "<H", 183), "no object file"),
    "a relative relocation": (with_relocations_of(2), "relocation of type 2"),
    "sections that are written to": (with_flags(1), "flags"),
    "a function that the process has not": (lambda content: content.replace(b"\0exp\0", b"\0exq\0"), "exq"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_what_is_not_understood_is_refused(exponential: Any, case: str) -> None:
    change, words = NOT_OURS[case]
    content = change(exponential.object)
    assert content != exponential.object
    with pytest.raises(object_code.CannotLink, match=words):
        object_code.load(content, exponential.symbol)


def test_what_is_refused_is_loaded_by_llvm(exponential: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(object_code.CannotLink, match="aarch64"):
        object_code.load(exponential.object, exponential.symbol)
    assert call(machine_code._address(exponential), 1, 0.0) == 5
