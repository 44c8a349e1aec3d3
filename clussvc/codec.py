"""Values as bytes: what goes into the log, between processes and into files.

The form is MessagePack behind one byte that names the version of the form. A dataclass is a map from field names to
values, an enum is the word of its value, an identifier is its plain text or number. Where one of several classes may
stand, the name of the class stands before it: ``[name, fields]``. Nothing is ever unpickled and no class is looked up
by a name that the bytes bring along, only in tables made here.

Invariants: ``decode(encode(x)) == x`` with the order of every mapping kept (the order is part of ``Config.recent``);
equal values with equal order give equal bytes, so bytes may be compared and hashed; sets are the exception and must
not be in values that are compared. Whatever the bytes are, decoding ends in a value or in a ClusterError, and its use
of memory is bounded by a small multiple of their number, which every caller limits.

The version is raised by *every* change of a field's meaning and by every new field or class, because a node that
skipped a precondition that it does not know would apply an entry of the log differently from the others. Fields with
defaults may be missing, so entries that an older release wrote are understood after an upgrade. A proposal says the
lowest version that has all its fields, so that a release that knows only the older ones still understands whatever it
can; :data:`_NEW_FIELDS` lists what came with each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import msgspec

from clussvc.global_update.update import Batch, Proposal, Update
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.records import HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause

FORM_VERSION: Final = 1
"""The first byte of everything that is encoded here, but for proposals that use a newer field."""

PROPOSAL_VERSION_MAX: Final = 12
"""The newest form of proposals."""

_NEW_FIELDS: Final[Mapping[tuple[str, str], int]] = {
    ("SetGroupProperties", "expected_common"): 2,
    ("SetGroupProperties", "expected_private"): 2,
    ("SetResourceProperties", "because"): 2,
    ("ReportStates", "failures"): 2,
    ("SetClusterProperties", "quicker"): 4,
    ("FoundCluster", "quorum"): 5,
    ("SetQuorum", "hold_ms"): 7,
    ("SetResourceProperties", "expected_private"): 8,
    ("SetGroupProperties", "instances"): 9,
    ("SetQuorum", "quorum"): 10,
    ("SetQuorum", "voters_version"): 10,
    ("SetQuorum", "anew"): 12,
}
"""The version that brought each later field of an update, which is left out while it is empty."""

_NEW_UPDATES: Final[Mapping[str, int]] = {
    "CreateFenceDevice": 3,
    "DeleteFenceDevice": 3,
    "SetFenceDeviceProperties": 3,
    "NodeFenced": 3,
    "FencingFailed": 3,
    "ClearQuarantine": 3,
    "SetQuorum": 5,
    "SetNetworkProperties": 6,
    "SetNetworkPriorities": 6,
    "ReportInterfaces": 6,
    "NodeSettled": 10,
    "SetWitness": 11,
    "OpenWitness": 11,
    "CloseWitness": 11,
    "DropVote": 11,
}
"""The version that brought each later update."""

_NEW_WORDS: Final[Mapping[tuple[str, str, object], int]] = {
    ("Rename", "kind", "network"): 6,
    ("MoveGroup", "cause", MoveCause.NETWORK_FAILURE): 6,
}
"""The version that brought each later word of a field that is older."""

VALUE_BYTES_MAX: Final = 64 * 1024
"""The default bound of a single value, such as a heartbeat or a line of a dialogue between processes."""
PROPOSAL_BYTES_MAX: Final = 512 * 1024
"""The largest proposal; the log carries at most 1 MiB in one batch, and a property is at most 64 KiB."""
CONFIG_BYTES_MAX: Final = 256 * 1024 * 1024
"""The largest whole configuration, as it stands in a snapshot."""
BATCH_DEPTH_MAX: Final = 4
"""How deep batches may stand in batches."""

_INT_MAX: Final = 2**63 - 1
"""Numbers are those of the database, not the slightly larger ones of MessagePack."""

T = TypeVar("T")

_UPDATES: Final[Mapping[str, type[Any]]] = {cls.__name__: cls for cls in get_args(Update)}
# ``raw`` keeps the inner bytes as they are, until the tag has said which class they are.
_TAGGED: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_PROPOSAL: Final = msgspec.msgpack.Decoder(tuple[RequestId, NodeId, int, str, msgspec.Raw])
_BATCH: Final = msgspec.msgpack.Decoder(tuple[tuple[str, msgspec.Raw], ...])


def _as_dict(value: object) -> object:
    """A mapping of another class than dict, such as a read-only view, is written like a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_as_dict)


# --- proposals -------------------------------------------------------------------------------------------------------


def encode_proposal(proposal: Proposal) -> bytes:
    """The bytes of a proposal, at most PROPOSAL_BYTES_MAX.

    Raises ClusterError(``too-large``) when it is longer, and ClusterError(``not-encodable``) for a value that has no
    such form (a number beyond 63 bits, a text that is not Unicode).
    """
    tag, body = _update_parts(proposal.update, 0)
    if not _small(proposal):
        raise ClusterError("not-encodable", f"{tag} holds a number of more than 63 bits; give a smaller one")
    form = [proposal.request, proposal.proposer, proposal.at_ms, tag, body]
    return _encoded(form, "a proposal", PROPOSAL_BYTES_MAX, version=_version(proposal.update))


def decode_proposal(data: bytes) -> Proposal:
    """The inverse of encode_proposal.

    Raises ClusterError(``malformed-proposal``), or ClusterError(``unknown-form``) for another version; both ``remote``.
    """
    with _Guard("proposal") as guard:
        body = guard.opened(data, PROPOSAL_BYTES_MAX, newest=PROPOSAL_VERSION_MAX)
        request, proposer, at_ms, tag, raw = _PROPOSAL.decode(body)
        proposal = Proposal(request=request, proposer=proposer, at_ms=at_ms, update=_update(tag, raw, 0))
        if _version(proposal.update) > data[0]:
            # A release that knows only that form would skip the field and apply something else.
            raise _BadFormError(f"{tag} has a field that form {data[0]} does not have")
        if not _small(proposal):
            raise _BadFormError("it holds a number of more than 63 bits")
    return proposal


def _version(update: Update) -> int:
    """The lowest version of the form that can say everything of an update."""
    if isinstance(update, Batch):
        return max(map(_version, update.updates), default=FORM_VERSION)
    tag = type(update).__name__
    used = [version for (of, name), version in _NEW_FIELDS.items() if of == tag and getattr(update, name)]
    used += [version for (of, name, word), version in _NEW_WORDS.items() if of == tag and getattr(update, name) == word]
    return max(used, default=_NEW_UPDATES.get(tag, FORM_VERSION))


def _update_parts(update: Update, depth: int) -> tuple[str, object]:
    """The tag and what stands behind it."""
    if isinstance(update, Batch):
        if depth >= BATCH_DEPTH_MAX:
            raise ClusterError("not-encodable", f"batches of updates are nested deeper than {BATCH_DEPTH_MAX}")
        return "Batch", [_update_parts(each, depth + 1) for each in update.updates]
    tag = type(update).__name__
    unused = {name for of, name in _NEW_FIELDS if of == tag and not getattr(update, name)}
    if not unused:
        return tag, update
    return tag, {field.name: getattr(update, field.name) for field in fields(update) if field.name not in unused}


def _update(tag: str, raw: msgspec.Raw, depth: int) -> Update:
    cls = _UPDATES.get(tag)
    if cls is None:
        raise _BadFormError(f"there is no update {tag[:64]!r}")
    if cls is Batch:
        if depth >= BATCH_DEPTH_MAX:
            raise _BadFormError(f"batches are nested deeper than {BATCH_DEPTH_MAX}")
        return Batch(updates=tuple(_update(inner, body, depth + 1) for inner, body in _BATCH.decode(raw)))
    update: Update = _decoder(cls).decode(raw)
    return update


# --- the configuration -----------------------------------------------------------------------------------------------


def encode_config(config: Config) -> bytes:
    """The bytes of the whole configuration, for snapshots; the order of its mappings is kept.

    Raises ClusterError(``too-large``, ``not-encodable``) as encode_proposal does.
    """
    return _encoded(config, "the configuration", CONFIG_BYTES_MAX)


def decode_config(data: bytes) -> Config:
    """The inverse of encode_config.

    Raises ClusterError(``malformed-configuration``), or ClusterError(``unknown-form``) for another version.
    """
    with _Guard("configuration") as guard:
        config = _decoder(Config).decode(guard.opened(data, CONFIG_BYTES_MAX))
        assert isinstance(config, Config)
    return config


def config_digest(config: Config) -> str:
    """The SHA-256 of the encoded configuration: equal on all nodes at an equal index of the log."""
    return hashlib.sha256(encode_config(config)).hexdigest()


def digest_of(*parts: object) -> bytes:
    """The SHA-256 of a few values together, without a limit; for checks of stored things, not for comparing sets.

    Raises ClusterError(``not-encodable``) as encode_proposal does.
    """
    return hashlib.sha256(_encoded(parts, "a part of the configuration", CONFIG_BYTES_MAX)).digest()


# --- any value -------------------------------------------------------------------------------------------------------


def encode_value(value: object, *, max_bytes: int = VALUE_BYTES_MAX) -> bytes:
    """The bytes of a dataclass, with the name of its class, at most ``max_bytes``.

    Its fields may be of all types that the configuration uses: numbers, texts, enums, tuples, frozensets, mappings,
    optional values and other dataclasses, but not a choice of several dataclasses.
    Raises ClusterError(``too-large``, ``not-encodable``) as encode_proposal does.
    """
    assert is_dataclass(value), f"{value!r} is not a dataclass"
    assert not isinstance(value, (Proposal, Batch)), "proposals have a form of their own: encode_proposal"
    name = type(value).__name__
    return _encoded([name, value], f"a {name}", max_bytes)


def decode_value(cls: type[T], data: bytes, max_bytes: int = VALUE_BYTES_MAX) -> T:
    """The inverse of encode_value, for one class.

    Raises ClusterError(``malformed-value``) when the bytes are not such a value or more than ``max_bytes``, and
    ClusterError(``unknown-form``) for another version; both ``remote``.
    """
    value: T = decode_one_of(cls, data, max_bytes)
    return value


def decode_one_of(union: Any, data: bytes, max_bytes: int = VALUE_BYTES_MAX) -> Any:
    """The inverse of encode_value for a choice of dataclasses, as in ``MonitorCommand``; errors as of decode_value."""
    classes = _by_name(union)
    with _Guard("value") as guard:
        name, raw = _TAGGED.decode(guard.opened(data, max_bytes))
        cls = classes.get(name)
        if cls is None:
            raise _BadFormError(f"{name[:64]!r} is not one of {', '.join(classes)}")
        return _decoder(cls).decode(raw)


@cache
def _by_name(union: Any) -> Mapping[str, type[Any]]:
    classes = get_args(union) if get_origin(union) in (Union, UnionType) else (union,)
    return {cls.__name__: cls for cls in classes}


def _decoder(cls: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    """Made once for each class, at its first use; most processes never need all of them."""
    known = _DECODERS.get(cls)
    return known if known is not None else _DECODERS.setdefault(cls, msgspec.msgpack.Decoder(cls))


_DECODERS: Final[dict[type[Any], msgspec.msgpack.Decoder[Any]]] = {}


# --- plain values, for JSON and for programs -------------------------------------------------------------------------


def to_plain(value: object) -> Any:
    """A value as maps with text keys, lists, texts, numbers, booleans and None: what JSON can say."""
    return _listed(msgspec.to_builtins(value, str_keys=True, enc_hook=_as_dict))


def from_plain(cls: type[T], plain: object) -> T:
    """The inverse of to_plain for a type that holds no choice of dataclasses.

    Raises ClusterError(``malformed-value``, remote) when the plain value does not fit.
    """
    with _Guard("value"):
        return msgspec.convert(plain, cls, strict=True, str_keys=True)


def encode_report(report: Report | None) -> bytes:
    """The outcome of a proposal: None when it was made."""
    return _encoded(report, "a report", VALUE_BYTES_MAX)


def decode_report(data: bytes) -> Report | None:
    """The inverse of encode_report. Raises ClusterError(``malformed-report``, ``unknown-form``; remote)."""
    with _Guard("report") as guard:
        return _OUTCOME.decode(guard.opened(data, VALUE_BYTES_MAX))


_OUTCOME: Final[msgspec.msgpack.Decoder[Report | None]] = msgspec.msgpack.Decoder(Report | None)


def encode_history_entry(entry: HistoryEntry) -> bytes:
    """One event of the history."""
    return encode_value(entry)


def decode_history_entry(data: bytes) -> HistoryEntry:
    """The inverse of encode_history_entry; errors as of decode_value."""
    return decode_value(HistoryEntry, data)


def _listed(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _listed(each) for key, each in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_listed(each) for each in plain]
    return plain


# --- the common part -------------------------------------------------------------------------------------------------


class _BadFormError(Exception):
    """What the guard turns into a ClusterError that names the kind of value."""


class _Guard:
    """Checks the version and the length, and turns every way in which decoding fails into a ClusterError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def opened(self, data: bytes, max_bytes: int, *, newest: int = FORM_VERSION) -> memoryview:
        """What stands behind the version byte."""
        if len(data) > max_bytes:
            raise _BadFormError(f"it is {len(data)} bytes long; at most {max_bytes} are accepted")
        if not data:
            raise _BadFormError("it is empty")
        if not FORM_VERSION <= data[0] <= newest:
            raise ClusterError(
                "unknown-form",
                f"a {self._what} is written in form {data[0]}, but this release of clussvc reads form {newest};"
                " bring all nodes to the newest release that runs on any of them",
                remote=True,
            )
        return memoryview(data)[1:]

    def __enter__(self) -> _Guard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # MessagePack from outside may be wrong in its form, its types or its texts, and nested without end.
        if isinstance(error, (_BadFormError, msgspec.MsgspecError, ValueError, TypeError, RecursionError)):
            detail = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise ClusterError(
                f"malformed-{self._what}",
                f"a {self._what} cannot be read: {detail[:300]}; it was refused and nothing was changed",
                remote=True,
            ) from error


def _encoded(form: object, what: str, max_bytes: int, *, version: int = FORM_VERSION) -> bytes:
    buffer = bytearray([version])
    try:
        _ENCODER.encode_into(form, buffer, 1)
    except (OverflowError, UnicodeError, RecursionError, TypeError) as error:
        raise ClusterError("not-encodable", f"{what} cannot be written: {error}") from error
    if len(buffer) > max_bytes:
        raise ClusterError(
            "too-large",
            f"{what} would be {len(buffer)} bytes long; at most {max_bytes} are possible: give shorter values",
        )
    return bytes(buffer)


def _small(value: object) -> bool:
    """Whether the database can keep all numbers; asked before they are in the log and must be kept by every node."""
    if isinstance(value, int):
        return -_INT_MAX <= value <= _INT_MAX
    if isinstance(value, Mapping):
        return all(map(_small, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_small, value))
    if is_dataclass(value):
        return all(_small(getattr(value, field.name)) for field in fields(value))
    return True
