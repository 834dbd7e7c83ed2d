"""Whether the names in an ONNX file are text."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


def check_text(message: Any, source: str) -> None:
    """Hold all names and words in a protobuf message, and in what it is made of, to UTF-8.

    protobuf itself hands out bytes where they are not.

    Raises: InputError.
    """
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        one = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
        for part in (value,) if one else value:
            if isinstance(part, bytes):
                raise InputError(f"{source} is damaged: the {field.name} {part[:40]!r} is no text")
            if not isinstance(part, str):
                check_text(part, source)
