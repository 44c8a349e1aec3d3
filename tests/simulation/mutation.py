"""What a mutation is: one way to break the product, and the stories that must show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from tests.simulation.temptations import Draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One way to break the product."""

    name: str
    breaks: str
    """The rule that rests on what is taken away."""
    what: str
    """What the broken product does, in a sentence."""
    caught_as: frozenset[str]
    """The rules of the referee that count as noticed; ``liveness`` only where coming back is what is promised."""
    broken: Callable[[], AbstractContextManager[None]]
    """The product is broken while this is entered."""
    plot: Draw
    """The story of a seed, with the faults that tempt this weakness."""
    seeds_max: int
    """Within how many seeds, from 1 on, it must be noticed."""


def broken_by(*changes: tuple[object, str, object]) -> Callable[[], AbstractContextManager[None]]:
    """Replaces these attributes of classes and modules for a while."""

    @contextmanager
    def breaking() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, value in changes:
                stack.enter_context(patch.object(owner, name, value))
            yield

    return breaking
