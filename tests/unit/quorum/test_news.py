"""News in parts: whole ones come together, everything else is dropped."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from clussvc import codec
from clussvc.model.ids import NodeId
from clussvc.quorum import news
from clussvc.quorum.news import NewsPiece, NewsReader, Notice, pieces

N1, N2 = NodeId(1), NodeId(2)


def parts(data: bytes, *, generation: int = 3) -> list[NewsPiece]:
    return pieces(generation=generation, index=7, snapshot=True, data=data)


def test_news_are_cut_and_put_together_for_each_sender() -> None:
    long = bytes(range(256)) * (news.PIECE_BYTES // 64)
    first, second = parts(long), parts(b"short", generation=4)
    assert (len(first), len(second)) == (4, 1)
    reader = NewsReader()
    assert [reader.take(N1, piece) for piece in first[:3]] == [None] * 3
    assert reader.take(N2, second[0]) == b"short"
    assert reader.take(N1, first[3]) == long
    assert parts(b"")[0].total == 1


def test_what_does_not_follow_drops_what_was_begun() -> None:
    first = parts(bytes(3 * news.PIECE_BYTES))
    for wrong in (first[2], replace(first[1], index=8), replace(first[1], total=9), replace(first[1], number=-1)):
        reader = NewsReader()
        assert reader.take(N1, first[0]) is None
        assert reader.take(N1, wrong) is None
        assert reader.take(N1, first[1]) is None
        assert reader.take(N1, first[2]) is None
    reader = NewsReader()
    assert reader.take(N1, replace(first[0], total=news.PIECES_MAX + 1)) is None
    reader.take(N1, first[0])
    reader.forget(N1)
    assert [reader.take(N1, piece) for piece in first[1:]] == [None, None]


@given(word=st.one_of(st.builds(Notice, generation=st.integers(0, 2**40)), st.just(parts(b"x" * 300)[0])))
def test_words_have_one_form(word: Notice | NewsPiece) -> None:
    assert codec.decode_one_of(Notice | NewsPiece, codec.encode_value(word)) == word
