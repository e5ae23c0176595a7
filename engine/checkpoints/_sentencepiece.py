"""The pieces of a SentencePiece model, read from its file without the library: a protobuf message of known fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECES = 1  # ModelProto.pieces
_TEXT = 1  # ModelProto.SentencePiece.piece
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_CONTINUES, _SEVEN_BITS = 0x80, 0x7F


def read_pieces(content: bytes) -> dict[str, int]:
    """Give the pieces of a `tokenizer.model` and their ids, which are their places; {} for a file of another kind.

    The format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
    """
    pieces: dict[str, int] = {}
    try:
        for number, (field, value) in enumerate(_fields(content)):
            if field == _PIECES:
                text = next(text for inner, text in _fields(value) if inner == _TEXT)
                pieces[text.decode()] = len(pieces)
            elif not number:
                return {}
    except (IndexError, ValueError, StopIteration):
        return {}
    return pieces


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk over the fields of a protobuf message; what is no string or message comes as empty bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
            yield field, b""
        elif kind in _FIXED_SIZES:
            position += _FIXED_SIZES[kind]
            yield field, b""
        elif kind == _BYTES:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("a field reaches beyond the end of the message")
            yield field, message[position : position + length]
            position += length
        else:
            raise ValueError(f"{kind} is no wire type of a protobuf message")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & _SEVEN_BITS) << shift
        position, shift = position + 1, shift + 7
        if not byte & _CONTINUES:
            return value, position
