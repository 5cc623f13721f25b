"""Damage done to files: blind, or in the words of their format, so that it gets past the first check.

Everything is a function of the generator that is passed, so that a case can be run again by its number.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
_BYTES = (0x00, 0x01, 0x20, 0x7F, 0x80, 0xFF)
_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = (
    *(b"", b"-1", b"0", b"1e999", b"nan", b"-inf", b"0x10", b"1_000", b"9" * 400, b"2147483648", b"true", b"null"),
    *(b"../../x", b"/etc/passwd", b"a/b", b"\0", b"\xff\xfe", "\u00e9\u4e2d\U0001f600".encode(), b"\xed\xa0\x80"),
    *(
        b"x" * 5_000,
        b"[",
        b"]",
        b"{",
        b"}",
        b"<",
        b">",
        b'"',
        b"'",
        b",",
        b":",
        b"&a",
        b"*a",
        b"!!python/name:os",
        b"\n",
    ),
    *(b"2020-13-45", b"1:30", b"~", b"? ", b"- ", b"%", b"@", b"<!ENTITY x 'y'>", b"&x;", b"&#0;", b"<![CDATA["),
)


def pick(random: Random, choices: Any) -> Any:
    """One of `choices`."""
    return choices[int(random.integers(len(choices)))]


def damaged(random: Random, content: bytes, *, times: int | None = None) -> bytes:
    """`content` after one to four blind changes."""
    data = bytearray(content)
    for _ in range(times or int(random.integers(1, 5))):
        if not data:
            return bytes(data)
        place = int(random.integers(len(data)))
        length = int(min(random.geometric(0.05), len(data)))
        match int(random.integers(9)):
            case 0:
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                data[place] = pick(random, _BYTES)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                data[place:place] = random.bytes(length)
            case 6:
                data[place : place + length] = bytes([pick(random, _BYTES)]) * length
            case 7:
                order = pick(random, ("<I", ">I", "<H", ">H", "<Q"))
                number = pick(random, _NUMBERS) & ((1 << 8 * struct.calcsize(order)) - 1)
                data[place : place + struct.calcsize(order)] = struct.pack(order, number)
            case 8:
                other = int(random.integers(len(data)))
                data[place : place + length] = data[other : other + length]
    return bytes(data)


def reworded(random: Random, content: bytes) -> bytes:
    """A text after one to three of its words or numbers were replaced, doubled, removed or nested."""
    for _ in range(int(random.integers(1, 4))):
        words = [match.span() for match in re.finditer(rb"[\w.+-]+|[^\w\s]", content)]
        if not words:
            return content
        start, end = pick(random, words)
        match int(random.integers(5)):
            case 0 | 1:
                content = content[:start] + pick(random, _WORDS) + content[end:]
            case 2:
                other_start, other_end = pick(random, words)
                content = content[:start] + content[other_start:other_end] + content[end:]
            case 3:
                line = content.rfind(b"\n", 0, start) + 1
                stop = content.find(b"\n", end) % (len(content) + 1)
                content = content[:stop] + b"\n" + content[line:stop] + content[stop:]
            case 4:
                depth = pick(random, (3, 300, 20_000))
                opening = pick(random, (b"[", b"{", b"<a>", b"- ", b"("))
                content = content[:start] + opening * depth + content[start:]
    return content


def text_damaged(random: Random, content: bytes) -> bytes:
    """Half of the time by words, half blindly."""
    return (reworded if random.random() < 0.6 else damaged)(random, content)


def png_damaged(random: Random, content: bytes) -> bytes:
    """A PNG with a damaged chunk whose checksum is right again."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return damaged(random, content)
    number = int(random.integers(len(chunks)))
    name, body = chunks[number]
    match int(random.integers(4)):
        case 0:
            chunks.insert(int(random.integers(len(chunks))), (name, damaged(random, body)))
        case 1:
            del chunks[number]
        case 2:
            name = pick(
                random, (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"gAMA")
            )
            chunks.insert(number, (name, random.bytes(int(random.integers(0, 40)))))
        case 3:
            chunks[number] = (name, damaged(random, body))
    encoded = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(encoded)


def tar_damaged(random: Random, content: bytes) -> bytes:
    """A plain tar with damaged headers whose checksums are right again."""
    data = bytearray(content)
    headers = [place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"]
    for place in headers:
        if random.random() < 0.5:
            continue
        start, end = pick(random, ((0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (157, 257), (345, 500)))
        if random.random() < 0.5:
            data[place + start : place + end] = damaged(random, bytes(data[place + start : place + end]))[
                : end - start
            ].ljust(end - start, b"\0")
        else:
            word = pick(random, (*_WORDS, b"1", b"2", b"3", b"5", b"g", b"x", b"L", b"K", b"S", b"\x80" + b"\xff" * 11))
            data[place + start : place + end] = word[: end - start].ljust(end - start, b"\0")
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    return bytes(data)


def json_damaged(random: Random, value: Any) -> Any:
    """A JSON value with one of its parts replaced, removed or added."""
    strange = (None, True, -1, 0, 1e308, 10**30, "", "x", "../x", [], {}, [[]], {"a": 1}, "nan", 0.5, "9" * 300)
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = pick(random, sorted(value))
        match int(random.integers(6)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, "unknown": pick(random, strange)}
            case _:
                return {**value, key: json_damaged(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = int(random.integers(len(value)))
        return [*value[:place], json_damaged(random, value[place]), *value[place + 1 :]]
    return pick(random, strange)


def either(random: Random, content: bytes, *ways: Callable[[Random, bytes], bytes]) -> bytes:
    """`content`, damaged in one of these ways."""
    changed: bytes = pick(random, ways)(random, content)
    return changed
