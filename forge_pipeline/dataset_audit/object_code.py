"""Loads machine code from an object file into this process, where LLVM's library alone takes 60 ms to load and end.

An object file as numba makes it is linked by few rules: place its sections one after the other, write into them where
the others and the C library are, make the pages executable. Sources: System V ABI, chapters 4 and 5 (ELF); x86-64
psABI, 4.4 (relocations). Only what numba's loops consist of is done here: code and constants of x86-64 under Linux that
refer to each other by addresses of 64 bits. Everything else raises `CannotLink`, and is left to LLVM.
"""

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_CONTENT, _SYMBOLS, _RELOCATIONS, _EMPTY, _RELOCATIONS_IN_PLACE = 1, 2, 4, 8, 9  # types of sections
_WRITABLE, _IN_MEMORY = 1, 2  # flags of sections
_UNDEFINED = 0  # the section of a symbol from elsewhere
_ADDRESS_64 = 1  # R_X86_64_64
_EXECUTABLE = 1 | 4  # PROT_READ | PROT_EXEC


class CannotLink(Exception):
    """The object file holds something that is not linked here, or this system does not let it."""


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


class _Relocation(NamedTuple):
    offset: int
    info: int
    addend: int


_SECTION, _SYMBOL, _RELOCATION = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ"), struct.Struct("<QQq")
_loaded: list[mmap.mmap] = []  # code stays as long as the process


def load(content: bytes, symbol: str) -> int:
    """The address of a function of an object file, whose code is now in memory for good.

    Args:
        content: The object file. It is trusted: who can change it can run code here.
        symbol: The function's name.

    Raises:
        CannotLink: LLVM must link it, if anything can.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotLink(f"{platform.machine()} under {sys.platform}")
    sections = _sections(content)
    (table,) = [section for section in sections if section.type == _SYMBOLS]
    symbols = [_Symbol(*fields) for fields in _SYMBOL.iter_unpack(_of(content, table))]
    places, size = _placed(sections)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    process, names = ctypes.CDLL(None, use_errno=True), _of(content, sections[table.link])

    def address(of: _Symbol) -> int:
        if of.section in places:
            return base + places[of.section] + of.value
        name = names[of.name : names.index(b"\0", of.name)].decode()
        if of.section != _UNDEFINED or not hasattr(process, name):  # looks it up as dlsym(3) does
            raise CannotLink(f"refers to {name!r}")
        return ctypes.cast(process[name], ctypes.c_void_p).value or 0

    for index, place in places.items():
        if sections[index].type == _CONTENT:
            memory[place : place + sections[index].size] = _of(content, sections[index])
    for place, relocation in _relocations(content, sections, places):
        target = address(symbols[relocation.info >> 32]) + relocation.addend
        struct.pack_into("<Q", memory, place + relocation.offset, target)
    if process.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), _EXECUTABLE) != 0:
        raise CannotLink(f"the system does not let memory be executed: errno {ctypes.get_errno()}")
    _loaded.append(memory)
    wanted = symbol.encode() + b"\0"
    return next(address(own) for own in symbols if own.section and names.startswith(wanted, own.name))


def _sections(content: bytes) -> list[_Section]:
    header = _HEADER.unpack_from(content)
    ident, kind, machine, start, size, count = (header[index] for index in (0, 1, 2, 6, 11, 12))
    if not ident.startswith(_IDENT) or (kind, machine, size) != (_RELOCATABLE, _X86_64, _SECTION.size):
        raise CannotLink("no object file of x86-64")
    return [_Section(*_SECTION.unpack_from(content, start + index * size)) for index in range(count)]


def _of(content: bytes, section: _Section) -> bytes:
    return content[section.offset : section.offset + section.size]


def _placed(sections: list[_Section]) -> tuple[dict[int, int], int]:
    """Where each section that is needed begins, by its index; and the size of all."""
    places: dict[int, int] = {}
    end = 0
    for index, section in enumerate(sections):
        if section.flags & _IN_MEMORY:
            if section.type not in (_CONTENT, _EMPTY) or section.flags & _WRITABLE:
                raise CannotLink(f"a section of type {section.type} with flags {section.flags:#x}")
            start = -(-end // max(section.alignment, 1)) * max(section.alignment, 1)
            places[index], end = start, start + section.size
    return places, max(end, 1)


def _relocations(
    content: bytes, sections: list[_Section], places: Mapping[int, int]
) -> Iterator[tuple[int, _Relocation]]:
    """Each with the place of the section that is to be changed."""
    for section in sections:
        if section.type in (_RELOCATIONS, _RELOCATIONS_IN_PLACE) and section.info in places:
            for fields in _RELOCATION.iter_unpack(_of(content, section)):
                relocation = _Relocation(*fields)
                if section.type != _RELOCATIONS or relocation.info & 0xFFFFFFFF != _ADDRESS_64:
                    raise CannotLink(f"a relocation of type {relocation.info & 0xFFFFFFFF}")
                yield places[section.info], relocation
