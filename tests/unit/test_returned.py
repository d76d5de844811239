"""A node of an asynchronous exchange finds out that it was there before, and waits for everyone no more."""

from __future__ import annotations

import pytest

from gossipfl.core.events import Received
from gossipfl.core.exchange.line import Lines, Post
from gossipfl.core.messages import Hello, Welcome


@pytest.mark.parametrize("kind", [Hello, Welcome])
@pytest.mark.parametrize(
    ("peer_inc", "heard", "returned"), [(None, -1, False), (0, -1, False), (0, 4, True), (5, -1, True)]
)
def test_who_is_known_for_more_than_it_has_said_was_there_before(
    kind: type[Hello], peer_inc: int | None, heard: int, returned: bool
) -> None:
    lines = Lines(Post(node=0, seed=1, neighbors=(1, 2), phases=10, about={}))
    lines.dialled(1, 7)

    lines.greeted(Received(1, 7, kind(7, 3, peer_inc, heard, -1, -1, {})))

    assert lines.by_peer[1].up
    assert lines.returned is returned
