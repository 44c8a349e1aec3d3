"""Values as bytes: exact there and back, and nothing but a ClusterError for whatever else arrives."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc import codec
from clussvc.global_update import update as updates
from clussvc.global_update.update import Batch, CreateGroup, DeleteGroup, Proposal, SetGroupProperties, Update
from clussvc.membership.heartbeat import Hearing, Heartbeat
from clussvc.model.config import Config, Node
from clussvc.model.errors import ClusterError
from clussvc.model.ids import ClusterId, GroupId, NodeId, RequestId
from clussvc.model.monitoring import (
    LeaseExtended,
    MonitorCommand,
    MonitorReport,
    PropertyValue,
    TakeOffline,
    TerminateEverything,
)
from clussvc.model.records import HistoryEntry, Record
from clussvc.model.reports import Report, no_quorum
from clussvc.model.states import NodePhase
from tests.adapters.configdb.values import configs

st.register_type_strategy(int, st.integers(-(2**63) + 1, 2**63 - 1))
st.register_type_strategy(str, st.text(st.characters(codec="utf-8"), max_size=8))
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


def whole(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Objects with every field drawn, those with defaults as well."""
    return st.builds(cls, **{each.name: ... for each in fields(cls)})


SIMPLE_UPDATES = [cls for cls in get_args(Update) if cls is not Batch]
simple_updates = st.one_of([whole(cls) for cls in SIMPLE_UPDATES])
all_updates = st.recursive(
    simple_updates,
    lambda inner: st.builds(Batch, updates=st.lists(inner, max_size=3).map(tuple)),
    max_leaves=4,
)
proposals = st.builds(
    Proposal,
    request=TEXTS.map(RequestId),
    proposer=st.integers(1, 64).map(NodeId),
    at_ms=NUMBERS,
    update=all_updates,
)


def batch_depth(update: Update) -> int:
    return 1 + max(map(batch_depth, update.updates), default=0) if isinstance(update, Batch) else 0


def a_proposal(update: Update) -> Proposal:
    return Proposal(request=RequestId("r"), proposer=NodeId(1), at_ms=7, update=update)


def decoding_fails(data: bytes) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        codec.decode_proposal(data)
    assert caught.value.remote
    return caught.value


# --- there and back --------------------------------------------------------------------------------------------------


@given(proposals.filter(lambda each: batch_depth(each.update) <= codec.BATCH_DEPTH_MAX))
@settings(max_examples=150, deadline=None)
def test_a_proposal_comes_back_as_it_was(proposal: Proposal) -> None:
    data = codec.encode_proposal(proposal)
    again = codec.decode_proposal(data)
    assert again == proposal
    assert type(again.update) is type(proposal.update)
    assert codec.encode_proposal(again) == data


@pytest.mark.parametrize("cls", SIMPLE_UPDATES, ids=lambda cls: cls.__name__)
def test_every_update_has_a_form(cls: type[Any]) -> None:
    @given(whole(cls))
    @settings(max_examples=5, deadline=None)
    def check(update: Update) -> None:
        assert codec.decode_proposal(codec.encode_proposal(a_proposal(update))) == a_proposal(update)

    check()


def test_no_update_is_missing_from_the_union() -> None:
    """A class added to the module without a place in the union could never be proposed."""
    own = {cls for cls in vars(updates).values() if isinstance(cls, type) and cls.__module__ == updates.__name__}
    assert own - set(get_args(Update)) == {updates.Proposal, updates.ResourceFailure, updates.ResourceStatus}


@given(configs())
@settings(max_examples=60, deadline=None)
def test_a_configuration_comes_back_as_it_was(config: Config) -> None:
    data = codec.encode_config(config)
    again = codec.decode_config(data)
    assert again == config
    assert list(again.recent) == list(config.recent)
    assert list(again.resources) == list(config.resources)
    assert codec.encode_config(again) == data
    assert codec.config_digest(again) == codec.config_digest(config)


def test_the_order_of_remembered_requests_is_part_of_the_value() -> None:
    first = Config(cluster=ClusterId("c"), name="c", recent={RequestId("a"): None, RequestId("b"): None})
    second = Config(cluster=ClusterId("c"), name="c", recent={RequestId("b"): None, RequestId("a"): None})
    assert codec.encode_config(first) != codec.encode_config(second)


def test_multi_strings_stay_tuples_and_numbers_stay_numbers() -> None:
    update = SetGroupProperties(group=GroupId("g"), private={"m": ("a", "b"), "n": 1, "s": "1", "gone": None, "e": ()})
    again = codec.decode_proposal(codec.encode_proposal(a_proposal(update))).update
    assert isinstance(again, SetGroupProperties)
    assert [type(each) for each in again.private.values()] == [tuple, int, str, type(None), tuple]


@given(st.one_of([whole(cls) for cls in (*get_args(MonitorCommand), *get_args(MonitorReport))]))
@settings(max_examples=100, deadline=None)
def test_what_service_and_monitor_say_comes_back(value: Any) -> None:
    assert codec.decode_one_of(MonitorCommand | MonitorReport, codec.encode_value(value)) == value
    assert codec.decode_value(type(value), codec.encode_value(value)) == value
    json.dumps(codec.to_plain(value))
    assert codec.from_plain(type(value), codec.to_plain(value)) == value


def test_a_heartbeat_comes_back_and_is_small() -> None:
    beat = Heartbeat(
        sender=NodeId(1),
        boot=3,
        seq=12_345,
        incarnation=2,
        phase=NodePhase.MEMBER,
        attempt=0,
        index=99_999,
        voters_version=3,
        heard=tuple(Hearing(node=NodeId(n), boot=1, seq=70_000 + n, silent_ms=40) for n in range(2, 17)),
    )
    data = codec.encode_value(beat)
    assert codec.decode_value(Heartbeat, data, 1_400) == beat
    assert len(data) < 1_400, "sixteen nodes must fit into one datagram"


@pytest.mark.parametrize("outcome", [None, no_quorum("n1", "1 of 3 votes")])
def test_an_outcome_comes_back(outcome: Report | None) -> None:
    assert codec.decode_report(codec.encode_report(outcome)) == outcome


def test_an_event_comes_back() -> None:
    record = Record(name="group.moved", message="Group g moved.", kind="group", object="g", because="ordered")
    entry = HistoryEntry(cursor=12_001, at_ms=1, record=record)
    assert codec.decode_history_entry(codec.encode_history_entry(entry)) == entry


def test_a_plain_configuration_is_json_and_comes_back() -> None:
    config = Config(
        cluster=ClusterId("c"),
        name="c",
        nodes={NodeId(7): Node(id=NodeId(7), name="n7", addresses=("10.0.0.7",), port=1, private={"p": ("x",)})},
    )
    assert codec.from_plain(Config, json.loads(json.dumps(codec.to_plain(config)))) == config


# --- what is refused -------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    for decode in (codec.decode_proposal, codec.decode_config, codec.decode_report, codec.decode_history_entry):
        for form in (data, bytes([codec.FORM_VERSION]) + data):
            caught = None
            try:
                decode(form)
            except ClusterError as error:
                caught = error
            assert caught is None or (caught.remote and caught.message)


@given(proposals.filter(lambda each: batch_depth(each.update) <= codec.BATCH_DEPTH_MAX), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_proposals_are_refused_or_are_other_proposals(proposal: Proposal, data: st.DataObject) -> None:
    good = bytearray(codec.encode_proposal(proposal))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(good) - 1))
        good[place] ^= data.draw(st.integers(1, 255))
    try:
        other = codec.decode_proposal(bytes(good))
    except ClusterError:
        return
    assert codec.decode_proposal(codec.encode_proposal(other)) == other


@given(proposals.filter(lambda each: batch_depth(each.update) <= codec.BATCH_DEPTH_MAX))
@settings(max_examples=30, deadline=None)
def test_every_cut_is_noticed(proposal: Proposal) -> None:
    data = codec.encode_proposal(proposal)
    for length in range(len(data)):
        assert decoding_fails(data[:length]).code in ("malformed-proposal", "unknown-form")


def test_bytes_behind_the_end_are_refused() -> None:
    data = codec.encode_proposal(a_proposal(DeleteGroup(group=GroupId("g"))))
    assert decoding_fails(data + b"\x00").code == "malformed-proposal"


def test_another_version_is_refused_with_the_way_out() -> None:
    data = codec.encode_proposal(a_proposal(DeleteGroup(group=GroupId("g"))))
    error = decoding_fails(bytes([codec.PROPOSAL_VERSION_MAX + 1]) + data[1:])
    assert error.code == "unknown-form"
    assert "newest release" in error.message


EXPECTING = SetGroupProperties(group=GroupId("g"), private={"p": "new"}, expected_private={"p": None})


def test_an_update_without_new_fields_is_written_as_the_first_release_wrote_it() -> None:
    """Journals of that form exist, and a node of that release reads what this one proposes."""
    update = SetGroupProperties(group=GroupId("g"), common={"Description": "d"}, private={"p": 1})
    old = b"\x01\x95\xa1r\x01\x07\xb2SetGroupProperties"
    old += b"\x83\xa5group\xa1g\xa6common\x81\xabDescription\xa1d\xa7private\x81\xa1p\x01"
    assert old == codec.encode_proposal(a_proposal(update))
    assert a_proposal(update) == codec.decode_proposal(old)


@pytest.mark.parametrize(
    "update", [EXPECTING, Batch(updates=(Batch(updates=(EXPECTING,)),))], ids=["alone", "in batches"]
)
def test_a_precondition_is_never_skipped_by_a_release_that_does_not_know_it(update: Update) -> None:
    """It is written in a newer form, and what claims to be of the older form is refused."""
    data = codec.encode_proposal(a_proposal(update))
    assert 2 == data[0]
    assert a_proposal(update) == codec.decode_proposal(data)
    assert "form 1 does not have" in decoding_fails(b"\x01" + data[1:]).message


def test_an_unknown_update_is_refused_by_name() -> None:
    data = codec.encode_proposal(a_proposal(DeleteGroup(group=GroupId("g"))))
    assert "DeleteGroop" in decoding_fails(data.replace(b"DeleteGroup", b"DeleteGroop")).message


def test_a_wrong_type_is_refused() -> None:
    data = codec.encode_proposal(a_proposal(CreateGroup(group=GroupId("g"), name="g")))
    wrong = data.replace(b"\xa4name\xa1g", b"\xa4name\x05")
    assert wrong != data
    assert decoding_fails(wrong).code == "malformed-proposal"


def test_another_class_is_refused() -> None:
    data = codec.encode_value(TerminateEverything(ticket=1, why="x"))
    with pytest.raises(ClusterError, match="TerminateEverything"):
        codec.decode_value(LeaseExtended, data)
    with pytest.raises(ClusterError, match="TerminateEverything"):
        codec.decode_one_of(LeaseExtended | TakeOffline, data)


def test_nested_batches_have_a_limit_both_ways() -> None:
    update: Update = DeleteGroup(group=GroupId("g"))
    for _ in range(codec.BATCH_DEPTH_MAX):
        update = Batch(updates=(update,))
    data = codec.encode_proposal(a_proposal(update))
    assert codec.decode_proposal(data) == a_proposal(update)
    with pytest.raises(ClusterError, match="nested"):
        codec.encode_proposal(a_proposal(Batch(updates=(update,))))
    inner = b"\x91\x92\xa5Batch"
    head = data[: data.index(inner)]
    assert "nested" in decoding_fails(head + inner * 50 + b"\x90").message


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1x", b"\x92\xa5Batch\x91"])
def test_endless_nesting_is_refused(nest: bytes) -> None:
    head = b"\x01\x95\xa1r\x01\x07\xb2SetGroupProperties"
    assert decoding_fails(head + nest * 20_000).code == "malformed-proposal"


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
@pytest.mark.parametrize("filler", [b"", b"\xc0" * 10_000, b"\xa0" * 10_000])
def test_a_promised_length_reserves_no_memory(header: bytes, filler: bytes) -> None:
    tracemalloc.start()
    try:
        for tag in (b"\xa5Batch", b"\xb2SetGroupProperties"):
            decoding_fails(b"\x01\x95\xa1r\x01\x07" + tag + header + filler)
        with pytest.raises(ClusterError):
            codec.decode_config(b"\x01" + header + filler)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_sizes_are_bounded_both_ways() -> None:
    value = "x" * codec.PROPOSAL_BYTES_MAX
    with pytest.raises(ClusterError, match="at most") as caught:
        codec.encode_proposal(a_proposal(SetGroupProperties(group=GroupId("g"), private={"p": value})))
    assert caught.value.code == "too-large" and not caught.value.remote
    assert "at most" in decoding_fails(b"\x01" + b"\xc0" * codec.PROPOSAL_BYTES_MAX).message
    with pytest.raises(ClusterError, match="at most 10 "):
        codec.decode_value(LeaseExtended, codec.encode_value(LeaseExtended(until_ms=5)), 10)


@pytest.mark.parametrize("value", [2**63, 2**80, -(2**63), "\ud800", ("ok", "\udfff")])
def test_values_without_a_form_are_refused_before_they_are_proposed(value: PropertyValue) -> None:
    with pytest.raises(ClusterError) as caught:
        codec.encode_proposal(a_proposal(SetGroupProperties(group=GroupId("g"), private={"p": value})))
    assert caught.value.code == "not-encodable"


def test_a_number_that_the_database_cannot_keep_is_refused_on_arrival() -> None:
    data = codec.encode_proposal(a_proposal(SetGroupProperties(group=GroupId("g"), private={"p": 2**63 - 1})))
    wrong = data.replace(b"\xcf\x7f" + b"\xff" * 7, b"\xcf" + b"\xff" * 8)
    assert wrong != data
    assert "63 bits" in decoding_fails(wrong).message
