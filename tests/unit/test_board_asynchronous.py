"""What a run's display makes of nodes that are far apart, as asynchronous exchanges let them be."""

from __future__ import annotations

from gossipfl.observe.board import Board, Evaluation


def far(board: Board, node: int, round: int) -> list[Evaluation]:
    """A node has finished a round and evaluated."""
    board.take({"node": node, "round": round, "kind": "round", "loss": 1.0})
    return board.take({"node": node, "round": round, "kind": "eval", "accuracy": 0.1 * node, "loss": 1.0})


def test_a_straggler_is_not_waited_for() -> None:
    board = Board(["a", "b", "c"], 100, waits=False)
    far(board, 2, 10)
    far(board, 0, 30)

    done = far(board, 1, 30)

    assert [e.round for e in done] == [10, 30]
    assert (done[1].low, done[1].high) == (0.0, 0.1)


def test_who_is_half_way_is_waited_for_and_one_alone_is_no_evaluation() -> None:
    board = Board(["a", "b", "c"], 100, waits=False)
    assert far(board, 0, 30) == []
    far(board, 2, 20)

    assert far(board, 1, 30) == []


def test_rounds_wait_for_everyone() -> None:
    board = Board(["a", "b", "c"], 100)
    far(board, 0, 30)
    assert far(board, 1, 30) == []
    assert [e.round for e in far(board, 2, 30)] == [30]
