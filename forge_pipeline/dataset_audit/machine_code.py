"""Compiled loops, kept as machine code that is loaded without numba.

numba compiles the loops of a module once. Importing it and letting it load what it keeps
costs a second in every later process, more than auditing fifty thousand rows. So its object
code is kept here, with the types of each loop's arguments, and loaded by `object_code` in some
milliseconds, or where that cannot, by llvmlite. Arrays are handed over as numba lays them out (numba's data model
``ArrayModel``: meminfo, parent, nitems, itemsize, data, shape, strides), which is checked
when the code is made; their types are checked at each call.

Such a file holds for one machine and one version of everything that decided what is in it:
the sources of the loops, numba, llvmlite, Python, the processor, numba's own settings. All
are in its name. Where it lies says `kept_files`; where none can be written, loops are compiled
in each process anew, for some seconds.

What this module does not know how to keep (a version of numba that lays things out in
another way) is run by numba itself: slower to start, the same results.
"""

import ctypes
import hashlib
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from forge_pipeline.dataset_audit import object_code
from forge_pipeline.dataset_audit.kept_files import read_kept, write_kept

_HERE = Path(__file__).parent
# Whoever calls a loop holds its arrays. Numba would count references to them, in every call of one function by another:
# a third of the time of the search for anchors.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
_ARRAY_FIELDS = ("meminfo", "parent", "nitems", "itemsize", "data", "shape", "strides")
_SETTINGS_THAT_DO_NOT_MATTER = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")
_OF_PROCESSOR = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip
# What references to a counted array would call at its end: arrays from outside are never counted.
_NEVER_CALLED = ("NRT_MemInfo_call_dtor",)


@dataclass(frozen=True)
class Loop:
    """A function to be compiled: what `loop` makes.

    Attributes:
        function: In Python, as numba takes it. It must not make arrays.
        signature: numba's.
    """

    function: Callable[..., Any]
    signature: Any


def loop(signature: Any) -> Callable[[Callable[..., Any]], Loop]:
    """Decorates a function that `loops` hands out, compiled. Its arguments: arrays, int64, float64, tuples of them."""
    return lambda function: Loop(function, signature)


def inner(function: Callable[..., Any]) -> Any:
    """Decorates a function that loops call, in a module that imports numba. As for them: it must not make arrays."""
    import numba

    compile_: Any = numba.njit  # its stubs do not know all options
    return compile_(**_OPTIONS)(function)


@dataclass(frozen=True)
class _Argument:
    """``array`` with dtype, dimensions and whether it is only read; ``int``, ``float``; or ``tuple`` of others."""

    kind: str
    dtype: str = ""
    ndim: int = 0
    read_only: bool = False
    items: "tuple[_Argument, ...]" = ()

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> "_Argument":
        kind, dtype, ndim, read_only, items = value
        return cls(kind, dtype, ndim, read_only, tuple(map(cls.of_json, items)))

    def to_json(self) -> list[Any]:
        return [self.kind, self.dtype, self.ndim, self.read_only, [item.to_json() for item in self.items]]

    def types(self) -> Iterator[Any]:
        """What C takes for it."""
        if self.kind == "array":
            yield from [ctypes.c_int64] * (5 + 2 * self.ndim)
        elif self.kind == "tuple":
            for item in self.items:
                yield from item.types()
        else:
            yield ctypes.c_double if self.kind == "float" else ctypes.c_int64

    def flattened(self, value: Any) -> Iterator[Any]:
        """`value` as C takes it.

        Raises:
            TypeError: It is of another type.
        """
        if self.kind == "array":
            fits = isinstance(value, np.ndarray) and value.dtype == self.dtype and value.ndim == self.ndim
            if not fits or not value.flags.c_contiguous or not (self.read_only or value.flags.writeable):
                raise TypeError(f"found {type(value).__name__} {getattr(value, 'dtype', '')}; expected {self}")
            yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        elif self.kind == "tuple":
            for item, part in zip(self.items, value, strict=True):
                yield from item.flattened(part)
        else:
            yield float(value) if self.kind == "float" else int(value)


@dataclass(frozen=True)
class _Code:
    """One compiled loop.

    Attributes:
        symbol: Its name in `object`.
        externals: What it calls that is not in `object`.
        returns: Whether it returns an int64.
        object: Machine code, as the linker takes it.
    """

    symbol: str
    externals: tuple[str, ...]
    returns: bool
    arguments: tuple[_Argument, ...]
    object: bytes


class CannotKeep(Exception):
    """The code that numba made is of a sort that this module does not know."""


@cache
def loops(module: str, *sources: str) -> Mapping[str, Callable[..., Any]] | None:
    """The loops of a module, by name, ready to be called without the interpreter's lock; None without numba.

    Args:
        module: Name of a module of this package, whose `Loop` objects are meant. It is imported only to compile.
        sources: Further modules that decide what the loops do.
    """
    with _LOCK:
        if find_spec("numba") is None or find_spec("llvmlite") is None:
            return None
        name = f"{module}-{_key(module, *sources)}.machine-code"
        codes = _read(name)
        try:
            if codes is None:
                codes = _compiled(module)
                _write(name, codes)
            return {loop: _callable(code) for loop, code in codes.items()}
        except CannotKeep:
            return _dispatchers(module)


_LOCK = threading.RLock()


def any_loaded() -> bool:
    """Whether this process has compiled loops: others are loaded soon then."""
    return loops.cache_info().currsize > 0


def _key(*modules: str) -> str:
    """What decides the machine code, as one name."""
    digest = hashlib.sha256()
    for package in ("numba", "llvmlite"):
        spec = find_spec(package)
        digest.update(Path(str(spec and spec.origin)).with_name("_version.py").read_bytes())
    for module in ("machine_code", *modules):
        digest.update((_HERE / f"{module}.py").read_bytes())
    settings = sorted(
        item for item in os.environ.items()
        if item[0].startswith("NUMBA_") and item[0] not in _SETTINGS_THAT_DO_NOT_MATTER
    )  # fmt: skip
    machine = (*_processor(), platform.machine(), sys.platform)
    digest.update(repr((sys.version_info[:3], np.__version__, machine, settings)).encode())
    return digest.hexdigest()[:24]


@cache
def _processor() -> tuple[str, ...]:
    """What is known of the processor: as Linux has it in /proc/cpuinfo (proc(5)), elsewhere as LLVM does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            first = [line.partition(":") for line in takewhile(str.strip, lines)]
    except OSError:
        first = []
    known = tuple(f"{name.strip()}={value.strip()}" for name, _, value in first if name.strip() in _OF_PROCESSOR)
    if any(name.startswith(("flags=", "Features=")) for name in known):
        return known
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


# --- files --------------------------------------------------------------------------------------------------------


def _read(name: str) -> dict[str, _Code] | None:
    body = read_kept(name)
    return None if body is None else _parsed(body.tobytes())


def _parsed(body: bytes) -> dict[str, _Code]:
    head, _, rest = body.partition(b"\n")
    codes, at = {}, 0
    for name, symbol, externals, returns, arguments, size in json.loads(head):
        own = tuple(map(_Argument.of_json, arguments))
        codes[name] = _Code(symbol, tuple(externals), returns, own, rest[at : at + size])
        at += size
    return codes


def _write(name: str, codes: Mapping[str, _Code]) -> None:
    head = [
        (loop, code.symbol, code.externals, code.returns, [own.to_json() for own in code.arguments], len(code.object))
        for loop, code in codes.items()
    ]
    write_kept(name, json.dumps(head).encode() + b"\n" + b"".join(code.object for code in codes.values()))


# --- numba --------------------------------------------------------------------------------------------------------


def _loops_of(module: str) -> dict[str, Loop]:
    members = vars(import_module(f"forge_pipeline.dataset_audit.{module}"))
    return {name: member for name, member in members.items() if isinstance(member, Loop)}


def _compiled(module: str) -> dict[str, _Code]:
    try:
        return {name: _code(member) for name, member in _loops_of(module).items()}
    except (AttributeError, ImportError, KeyError, TypeError) as error:  # numba is not built as it was
        raise CannotKeep(str(error)) from error


def _code(member: Loop) -> _Code:
    import numba

    compile_: Any = numba.njit
    dispatcher = compile_(member.signature, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(member.function)
    (compiled,) = dispatcher.overloads.values()
    library, described = compiled.library, compiled.fndesc
    if str(described.restype) not in ("int64", "none") or library.has_dynamic_globals:
        raise CannotKeep(f"{described.qualname} returns {described.restype}")
    declared = [line for line in library.get_llvm_str().splitlines() if line.startswith("declare ")]
    names = [line.split("@", 1)[1].split("(", 1)[0] for line in declared]
    return _Code(
        described.llvm_func_name,
        tuple(name for name in names if not name.startswith("llvm.")),
        str(described.restype) == "int64",
        tuple(map(_argument, described.argtypes)),
        library._get_compiled_object(),
    )


def _argument(kind: Any) -> _Argument:
    from numba.core import datamodel, types

    default_manager: Any = datamodel.default_manager  # type: ignore[attr-defined]

    if isinstance(kind, types.Array):
        if tuple(default_manager[kind]._fields) != _ARRAY_FIELDS or kind.layout != "C":
            raise CannotKeep(f"arrays are laid out as {default_manager[kind]._fields}")
        dtype = "bool" if kind.dtype is types.boolean else str(kind.dtype)
        return _Argument("array", dtype, kind.ndim, not kind.mutable)
    if isinstance(kind, types.BaseTuple):
        items: Any = kind
        return _Argument("tuple", items=tuple(map(_argument, items)))
    if kind in (types.int64, types.float64):
        return _Argument("int" if kind is types.int64 else "float")
    raise CannotKeep(f"an argument of type {kind}")


def _dispatchers(module: str) -> dict[str, Callable[..., Any]]:
    import numba

    def dispatcher(member: Loop) -> Callable[..., Any]:
        compile_: Any = numba.njit
        function: Callable[..., Any] = compile_(member.signature, **_OPTIONS)(member.function)
        return function

    return {name: dispatcher(member) for name, member in _loops_of(module).items()}


# --- into memory --------------------------------------------------------------------------------------------------


def _address(code: _Code) -> int:
    try:
        return object_code.load(code.object, code.symbol)
    except object_code.CannotLink:
        return _address_by_llvm(code)


@cache
def _engine() -> Any:
    """Links object code into this process, as numba does it."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    reloc = "static" if target.name.startswith("x86") else "default"
    machine = target.create_target_machine(
        opt=3, reloc=reloc, codemodel="jitdefault", jit=True,
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(),
    )  # fmt: skip
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _address_by_llvm(code: _Code) -> int:
    import llvmlite.binding as llvm

    for name in code.externals:
        if llvm.address_of_symbol(name) is None:
            if name not in _NEVER_CALLED:
                raise CannotKeep(f"needs {name}")
            llvm.add_symbol(name, ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value)
    engine = _engine()
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code.object))
    engine.finalize_object()
    address: int = engine.get_function_address(code.symbol)
    if not address:
        raise CannotKeep(f"{code.symbol} is not in its code")
    return address


def _callable(code: _Code) -> Callable[..., Any]:
    address = _address(code)
    kinds = [kind for argument in code.arguments for kind in argument.types()]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)(address)

    last: list[tuple[Any, list[Any]]] = [(None, [])] * len(code.arguments)  # tuples of arrays, which mostly come again

    def call(*values: Any) -> int | None:
        given: list[Any] = []
        for place, (own, value) in enumerate(zip(code.arguments, values, strict=True)):
            known = last[place]
            if own.kind != "tuple":
                given += own.flattened(value)
            elif known[0] is value:
                given += known[1]
            else:
                last[place] = value, list(own.flattened(value))
                given += last[place][1]
        result, raised = ctypes.c_int64(), ctypes.c_void_p()
        status = function(ctypes.addressof(result), ctypes.addressof(raised), *given)
        if status != 0:
            raise RuntimeError(f"{code.symbol}: a compiled loop failed with status {status}")
        return result.value if code.returns else None

    return call
