"""The extension against published vectors and against twins that are too simple to be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.native import crc32c, crc32c_by_tables, siphash128

KEY = bytes(range(16))


def crc32c_bit_by_bit(data: bytes) -> int:
    """The definition: the reflected polynomial 0x82f63b78, all ones before and after."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def siphash128_plain(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4-128 from its description, with Python's integers."""
    mask = 2**64 - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [0x736F6D6570736575 ^ k0, 0x646F72616E646F6D ^ k1 ^ 0xEE, 0x6C7967656E657261 ^ k0, 0x7465646279746573 ^ k1]

    def turn(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0], v[2] = (v[0] + v[1]) & mask, (v[2] + v[3]) & mask
            v[1], v[3] = turn(v[1], 13) ^ v[0], turn(v[3], 16) ^ v[2]
            v[0] = turn(v[0], 32)
            v[2], v[0] = (v[2] + v[1]) & mask, (v[0] + v[3]) & mask
            v[1], v[3] = turn(v[1], 17) ^ v[2], turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return first.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def test_published_checksums() -> None:
    """The check value of the catalogue, and 32 zeros and ones as RFC 3720 (iSCSI) gives them."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.binary(max_size=300), st.integers(0, 300))
def test_checksums_agree_with_the_definition_in_any_number_of_pieces(data: bytes, cut: int) -> None:
    """By instruction, by tables, bit by bit; whole and in two pieces."""
    expected = crc32c_bit_by_bit(data)

    assert crc32c(data) == crc32c_by_tables(data) == expected
    assert crc32c(data[cut:], crc32c(data[:cut])) == expected


def test_long_data() -> None:
    """Above the size at which other threads may run meanwhile."""
    data = bytes(range(256)) * 1024

    assert crc32c(data) == crc32c_by_tables(data)


def test_published_tags() -> None:
    """The first and the sixteenth vector that the authors of SipHash give for 128 bits."""
    assert siphash128(KEY, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash128(KEY, bytes(range(15))).hex() == "5493e99933b0a8117e08ec0f97cfc3d9"


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=200))
def test_tags_agree_with_the_description(key: bytes, data: bytes) -> None:
    """Any key, any length."""
    assert siphash128(key, data) == siphash128_plain(key, data)


def test_bad_arguments_are_refused() -> None:
    """A key of another length, a checksum that is none, a text."""
    with pytest.raises(ValueError, match="16 bytes"):
        siphash128(b"short", b"")
    with pytest.raises(ValueError, match="32 bits"):
        crc32c(b"", 2**32)
    with pytest.raises(TypeError):
        crc32c("text")  # type: ignore[arg-type]
