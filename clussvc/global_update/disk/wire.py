"""What the nodes of a disk cluster say to each other about their log, as bytes: MessagePack, one form for each word.

Malformed input raises :class:`ClusterError`, never more; sizes are bounded by the streams' frames.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clussvc.model.errors import ClusterError
from clussvc.quorum.disk_messages import Answer, Entries, Fate, Forward, Have, Image, Leading, LogMessage

IMAGE_PIECES_MAX: Final = 1_024

_FORMS: Final[tuple[tuple[type[Any], type[Any]], ...]] = (
    (Leading, tuple[int, int]),
    (Have, tuple[int, int]),
    (Entries, tuple[int, int, tuple[bytes, ...]]),
    (Image, tuple[int, int, int, int, bytes]),
    (Forward, tuple[int, int, bytes]),
    (Answer, tuple[int, int, str, int, str]),
)
_NUMBERS: Final = {cls: number for number, (cls, _) in enumerate(_FORMS)}
_DECODERS: Final = tuple(msgspec.msgpack.Decoder(form) for _, form in _FORMS)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: LogMessage) -> bytes:
    """One message as bytes."""
    match message:
        case Leading(epoch=epoch, index=index) | Have(epoch=epoch, index=index):
            fields: tuple[object, ...] = (epoch, index)
        case Entries():
            fields = (message.epoch, message.first_index, message.commands)
        case Image():
            fields = (message.epoch, message.index, message.number, message.total, message.data)
        case Forward():
            fields = (message.boot, message.request, message.command)
        case Answer():
            fields = (message.boot, message.request, message.fate.value, message.index, message.detail)
    return bytes([_NUMBERS[type(message)]]) + _ENCODER.encode(fields)


def decode(data: bytes) -> LogMessage:
    """The inverse of encode.

    Raises ClusterError(``malformed-message``), which is ``remote``.
    """
    try:
        number = data[0]
        fields = _DECODERS[number].decode(data[1:])
        if any(isinstance(field, int) and not 0 <= field < 2**63 for field in fields):
            raise ValueError("a number is negative or too large")
        return _made(number, fields)
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise ClusterError(
            "malformed-message", f"a message about the log cannot be read: {error}", remote=True
        ) from error


def _made(number: int, fields: tuple[Any, ...]) -> LogMessage:
    match _FORMS[number][0].__name__:
        case "Leading":
            return Leading(epoch=fields[0], index=fields[1])
        case "Have":
            return Have(epoch=fields[0], index=fields[1])
        case "Entries":
            return Entries(epoch=fields[0], first_index=fields[1], commands=fields[2])
        case "Image":
            epoch, index, piece, total, data = fields
            if not piece < total <= IMAGE_PIECES_MAX:
                raise ValueError(f"piece {piece} of {total}")
            return Image(epoch=epoch, index=index, number=piece, total=total, data=data)
        case "Forward":
            return Forward(boot=fields[0], request=fields[1], command=fields[2])
        case _:
            boot, request, fate, index, detail = fields
            return Answer(boot=boot, request=request, fate=Fate(fate), index=index, detail=detail)
