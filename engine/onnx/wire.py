"""An ONNX file without its numbers: where they lie is found, and they stay there.

A protobuf message is a row of fields, each a tag (number x 8 + kind) and a value; messages in it
are values with a length in front (protobuf.dev, Encoding). Weights are ModelProto.graph (field 7),
GraphProto.initializer (5), TensorProto.raw_data (9). Here long ones are left out, so that protobuf
copies little; whatever is unusual is left as it is, for protobuf to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..files import Content

GRAPH, INITIALIZER, RAW = 7, 5, 9
VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
LONG = 1 << 12  # bytes of numbers that are left where they are
MOST_FIELDS = 1 << 18  # that are looked at: more is no file of any exporter


class Field(NamedTuple):
    """A field: its tag is at `begin`, its value from `start` to `end`."""

    number: int
    kind: int
    begin: int
    start: int
    end: int


def without_numbers(content: Content) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """(the file without long rows of numbers, initializer → where its numbers lie)."""
    try:
        return _shortened(content)
    except (IndexError, ValueError):
        return bytes(content), {}


def _shortened(content: Content) -> tuple[bytes, dict[int, tuple[int, int]]]:
    left = [MOST_FIELDS]
    graph = _only(content, 0, len(content), GRAPH, left)
    made, places, done, index = bytearray(), {}, graph.start, -1
    for field in _fields(content, graph.start, graph.end, left):
        if field.number != INITIALIZER:
            continue
        if field.kind != LENGTH:  # protobuf may not count it as an initializer
            raise ValueError("no message")
        index += 1
        if field.end - field.start < LONG:
            continue
        inner = [f for f in _fields(content, field.start, field.end, left) if f.number == RAW]
        if len(inner) != 1 or inner[0].kind != LENGTH or inner[0].end - inner[0].start < LONG:
            continue
        (raw,) = inner
        places[index] = raw.start, raw.end
        tensor = content[field.start : raw.begin] + content[raw.end : field.end]
        made += content[done : field.begin] + _message(INITIALIZER, tensor)
        done = field.end
    made += content[done : graph.end]
    return content[: graph.begin] + _message(GRAPH, made) + content[graph.end :], places


def _only(content: Content, start: int, end: int, number: int, left: list[int]) -> Field:
    """The one field of that number, a message. Raises: ValueError."""
    (found,) = [f for f in _fields(content, start, end, left) if f.number == number]
    if found.kind != LENGTH:
        raise ValueError("no message")
    return found


def _fields(content: Content, start: int, end: int, left: list[int]) -> Iterator[Field]:
    """The fields of a message; `left` counts down. Raises: ValueError, IndexError."""
    while start < end:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("too many fields")
        begin = start
        tag, start = _number(content, start)
        kind = tag & 7
        if kind == VARINT:
            _, stop = _number(content, start)
        elif kind == LENGTH:
            size, start = _number(content, start)
            stop = start + size
        else:
            stop = start + {EIGHT: 8, FOUR: 4}.get(kind, len(content))
        if stop > end:
            raise ValueError("a field is longer than its message")
        yield Field(tag >> 3, kind, begin, start, stop)
        start = stop


def _number(content: Content, start: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for place in range(10):
        byte = content[start + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, start + place + 1
    raise ValueError("a number is too long")


def _message(number: int, value: bytes | bytearray) -> bytes:
    told = bytearray([number << 3 | LENGTH])
    size = len(value)
    while size > 127:
        told.append(size & 127 | 128)
        size >>= 7
    return bytes(told + bytes([size]) + value)
