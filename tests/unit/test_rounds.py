"""The machine of the exchange `rounds`, told what happens step by step: no socket, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gossipfl.core.aggregate import Row, ordered_sum
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Finished,
    Leave,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Send,
    Shift,
    Stepped,
)
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import anew
from gossipfl.core.messages import LAST, Data, Hello, Message, Nothing, Refuse, Welcome
from gossipfl.core.rules import averaging
from gossipfl.core.rules.base import Rule
from gossipfl.errors import LocalProtocolError

THIRD = 1 / 3


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def machine(rule: Rule | None = None, rounds: int = 3, **about: object) -> Rounds:
    """Node 1 between nodes 0 and 2, each with weight 1/3."""
    row = Row(1, ((0, THIRD), (1, THIRD), (2, THIRD)))
    return Rounds(rule or averaging.dpsgd(), lambda t: row, (0, 2), rounds, {"seed": 0, **about})


def told(m: Rounds, peer: int, message: Message, session: int = 1) -> list[Effect]:
    return m.handle(Received(peer, session, message), 0.0)


def hello(session: int = 1, **changes: object) -> Hello:
    return replace(Hello(session, 0, None, -1, -1, -1, {"seed": 0}), **changes)  # type: ignore[arg-type]


def welcome(session: int = 1) -> Welcome:
    return Welcome(session, 0, None, -1, -1, -1, {"seed": 0})


def met(m: Rounds) -> Rounds:
    told(m, 0, hello())
    m.handle(PeerUp(2, 1), 0.0)
    told(m, 2, welcome())
    return m


def begun(m: Rounds) -> Rounds:
    met(m).handle(Begin(vector(0.0)), 0.0)
    return m


def sends(effects: list[Effect]) -> list[tuple[int, Message]]:
    return [(e.peer, e.message) for e in effects if isinstance(e, Send)]


def adopted(effects: list[Effect]) -> Adopt | None:
    return next((e for e in effects if isinstance(e, Adopt)), None)


def test_the_end_that_dialled_says_hello_and_the_other_answers() -> None:
    m = machine()
    [(peer, first)] = sends(m.handle(PeerUp(2, 7), 0.0))
    assert (peer, type(first)) == (2, Hello)
    [(peer, answer)] = sends(told(m, 0, hello(3), session=3))
    assert isinstance(answer, Welcome)
    assert (peer, answer.session) == (0, 3)
    assert m.missing() == (2,)
    told(m, 2, welcome(7), session=7)
    assert m.missing() == ()


def test_a_peer_with_another_config_is_refused_with_key_and_both_values() -> None:
    m = machine()
    effects = told(m, 0, hello(about={"seed": 1}))
    [(peer, refuse)] = sends(effects)
    assert isinstance(refuse, Refuse)
    assert peer == 0
    assert refuse.reason == "has seed = 0, you have 1"
    assert m.missing() == (0, 2)


def test_a_stranger_is_refused() -> None:
    [(peer, refuse)] = sends(told(machine(), 9, hello()))
    assert peer == 9
    assert isinstance(refuse, Refuse)


def test_a_hello_of_an_older_session_that_comes_late_changes_nothing() -> None:
    m = machine()
    told(m, 0, hello(5), session=5)
    assert told(m, 0, hello(4), session=4) == []
    assert m.edges[0].session == 5


def test_a_round_closes_when_every_neighbor_has_spoken_whatever_the_order() -> None:
    results = []
    for order in ((0, 2), (2, 0)):
        m = begun(machine())
        assert adopted(m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)) is None
        assert adopted(told(m, order[0], Data(0, -1, (vector(0.1 + order[0]),)))) is None
        closed = adopted(told(m, order[1], Data(0, -1, (vector(0.1 + order[1]),))))
        assert closed is not None
        assert closed.counted == (0, 2)
        results.append(closed.x)
    expected = ordered_sum([(THIRD, vector(0.1)), (THIRD, vector(3.0)), (THIRD, vector(2.1))])
    assert torch.equal(results[0], expected)
    assert torch.equal(results[0], results[1])


def test_a_payload_that_comes_before_the_own_step_waits_for_it() -> None:
    m = begun(machine())
    told(m, 0, Data(0, -1, (vector(1.0),)))
    told(m, 2, Data(0, -1, (vector(1.0),)))
    told(m, 2, Data(1, 0, (vector(50.0),)))
    closed = adopted(m.handle(Stepped(vector(0.0), vector(1.0)), 0.0))
    assert closed is not None
    assert torch.allclose(closed.x, vector(1.0))


def test_an_early_rule_sends_before_it_trains() -> None:
    m = met(machine(averaging.dpsgd_cta()))
    first = sends(m.handle(Begin(vector(4.0)), 0.0))
    assert [peer for peer, _ in first] == [0, 2]
    assert all(isinstance(message, Data) and message.payload[0] == 4.0 for _, message in first)
    assert sends(m.handle(Stepped(vector(4.0), vector(3.0)), 0.0)) == []


def test_a_closed_connection_is_not_waited_for_and_its_weight_stays_home() -> None:
    m = begun(machine())
    m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
    told(m, 0, Data(0, -1, (vector(0.0),)))
    effects = m.handle(PeerDown(2, 1), 0.0)
    closed = adopted(effects)
    assert closed is not None
    assert closed.counted == (0,)
    assert torch.equal(closed.x, ordered_sum([(THIRD, vector(0.0)), (THIRD + THIRD, vector(3.0))]))
    assert [e.kind for e in effects if isinstance(e, Note)] == ["peer_down", "skip"]


def test_a_peer_known_to_be_gone_is_not_missed_before_round_0() -> None:
    m = machine()
    told(m, 0, hello())
    m.handle(PeerDown(2, None, gone=True), 0.0)
    assert m.missing() == ()
    m.handle(Begin(vector(0.0)), 0.0)
    m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)
    closed = adopted(told(m, 0, Data(0, -1, (vector(1.0),))))
    assert closed is not None
    assert closed.counted == (0,)


def test_after_a_cut_the_payload_is_sent_again_and_counts_late_at_both_ends() -> None:
    row0, row1 = Row(0, ((0, 0.5), (1, 0.5))), Row(1, ((0, 0.5), (1, 0.5)))
    a = Rounds(averaging.dpsgd(), lambda t: row0, (1,), 9, {})
    b = Rounds(averaging.dpsgd(), lambda t: row1, (0,), 9, {})

    def carry(effects: list[Effect], session: int, to: Rounds, sender: int) -> list[Effect]:
        return [e for _, m in sends(effects) for e in told(to, sender, m, session)]

    carry(carry(a.handle(PeerUp(1, 1), 0.0), 1, b, 0), 1, a, 1)
    for m, x in ((a, 0.0), (b, 8.0)):
        m.handle(Begin(vector(x)), 0.0)
    lost = a.handle(Stepped(vector(0.0), vector(0.0)), 0.0)  # a's payload of round 0 is lost with the line
    assert [type(m) for _, m in sends(lost)] == [Data]
    b_sent = b.handle(Stepped(vector(8.0), vector(8.0)), 0.0)
    carry(b_sent, 1, a, 1)  # a hears b and counts round 0
    assert a.round == 1
    b_closed = adopted(b.handle(PeerDown(0, 1), 0.0))
    assert b_closed is not None
    assert b_closed.counted == ()
    a.handle(PeerDown(1, 1), 0.0)
    # the line comes back: a's hello, b's welcome and what b owes, a's repeated payload
    answer = carry(a.handle(PeerUp(1, 2), 0.0), 2, b, 0)
    again = carry(answer, 2, a, 1)
    carry(again, 2, b, 0)
    b.handle(Stepped(b_closed.x, b_closed.x), 0.0)
    resting = a.handle(Stepped(vector(4.0), vector(4.0)), 0.0)
    effects = carry(resting, 2, b, 0)
    late = adopted(effects)
    assert late is not None
    assert any(isinstance(e, Note) and e.kind == "correction" for e in effects)
    assert torch.equal(late.x, vector(4.0))  # 8 + 1/2 (0 - 8): what the cut withheld, and the sum is 8 again


def test_the_last_round_ends_with_goodbyes_and_leaves_when_all_is_counted() -> None:
    m = begun(machine(rounds=1))
    m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)
    told(m, 0, Data(0, -1, (vector(1.0),)))
    last = told(m, 2, Data(0, -1, (vector(1.0),)))
    assert [(p, m.round) for p, m in sends(last) if isinstance(m, Nothing)] == [(0, LAST), (2, LAST)]
    assert not any(isinstance(e, Finished) for e in last)
    assert told(m, 0, Nothing(LAST, 0)) == []
    assert [type(e) for e in told(m, 2, Nothing(LAST, 0))] == [Finished]


def test_a_goodbye_is_not_a_loss() -> None:
    m = begun(machine(rounds=1))
    told(m, 0, Data(0, -1, (vector(1.0),)))
    told(m, 0, Nothing(LAST, 0))
    assert not any(isinstance(e, Note) for e in m.handle(PeerDown(0, 1), 0.0))


def test_a_payload_that_comes_after_the_last_round_shifts_the_parameters() -> None:
    m = begun(machine(rounds=1))
    m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)
    told(m, 2, Data(0, -1, (vector(1.0),)))
    m.handle(PeerDown(0, 1), 0.0)  # round 0 closes without node 0
    back = Hello(2, 0, 0, -1, -1, 0, {"seed": 0})
    told(m, 0, back, session=2)
    effects = told(m, 0, Data(0, -1, (vector(4.0),)), session=2)
    [shift] = [e for e in effects if isinstance(e, Shift)]
    assert torch.allclose(shift.delta, vector(1.0))  # 1/3 (4 - 1)


def test_a_node_that_comes_back_when_its_neighbors_are_done_is_at_the_end() -> None:
    m = machine()
    m.resume(anew(0, 1))
    told(m, 0, hello(sent=LAST))
    assert m.front == 3, "and not where nobody can be told to begin the rule anew"


def test_steps_out_of_turn_are_a_local_error() -> None:
    with pytest.raises(LocalProtocolError):
        machine().handle(Stepped(vector(0.0), vector(0.0)), 0.0)


def test_an_edge_with_something_open_rests() -> None:
    edge = Edge(0, up=True)
    edge.decide(0)
    edge.emit(0, (vector(1.0),), 0.5)
    edge.release(0)  # closed by a cut: the peer has not spoken of round 0
    edge.decide(1)
    assert not edge.plan
    edge.receive(Data(0, 0, (vector(2.0),)))
    [flow] = edge.settle(0)
    assert (flow.round, float(flow.mine[0]), float(flow.theirs[0])) == (0, 1.0, 2.0)
    edge.release(0)
    edge.decide(2)
    assert edge.plan


def test_an_acknowledgement_beyond_what_was_sent_is_not_believed() -> None:
    edge = Edge(0, up=True, plan=True)
    edge.emit(0, (vector(1.0),), 0.5)
    edge.receive(Nothing(0, 1000))
    assert edge.acked == 0


def test_a_node_that_leaves_says_goodbye_and_stays_until_what_it_sent_is_counted() -> None:
    # given a node that has closed a round and trains on
    m = begun(machine())
    told(m, 0, Data(0, -1, (vector(1.0),)))
    told(m, 2, Data(0, -1, (vector(1.0),)))
    assert adopted(m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)) is not None
    # when it leaves
    effects = m.handle(Leave(), 0.0)
    # then both are told, and it goes when both have counted its payload
    assert sends(effects) == [(0, Nothing(LAST, LAST)), (2, Nothing(LAST, LAST))]
    assert Finished() not in effects
    assert Finished() not in told(m, 0, Nothing(1, 0))
    assert Finished() in told(m, 2, Nothing(1, 0))
    assert (m.rounds, m.handle(Leave(), 0.0)) == (1, [])


def test_a_node_that_leaves_while_a_round_is_open_acknowledges_what_it_will_not_count() -> None:
    # given a node whose payload is out, and one neighbor's is here
    m = begun(machine())
    m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
    told(m, 0, Data(0, -1, (vector(1.0),)))
    # when it leaves, then nothing is adopted or shifted, and the neighbor need not keep its payload
    effects = m.handle(Leave(), 0.0)
    assert not any(isinstance(e, Adopt | Shift) for e in effects)
    assert (0, Nothing(LAST, LAST)) in sends(effects)
    assert Finished() in told(m, 0, Nothing(LAST, 0)) + told(m, 2, Nothing(LAST, 0))


def test_a_neighbor_that_leaves_before_the_end_is_noted_once_and_not_waited_for() -> None:
    # given a node that waits for two
    m = begun(machine())
    m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
    told(m, 0, Data(0, -1, (vector(3.0),)))
    # when one says goodbye, and closes its line
    effects = told(m, 2, Nothing(LAST, LAST))
    closing = m.handle(PeerDown(2, 1), 0.0)
    # then the round closes without it
    closed = adopted(effects)
    assert closed is not None
    assert closed.counted == (0,)
    assert [(e.kind, e.peer, e.text) for e in effects if isinstance(e, Note) and e.kind == "peer_down"] == [
        ("peer_down", 2, "has left")
    ]
    assert closing == []
    # and at the end it does not matter that it has never counted this node's payload
    for t in (1, 2):
        m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
        told(m, 0, Data(t, t - 1, (vector(3.0),)))
    assert Finished() in told(m, 0, Nothing(LAST, 2))


def test_a_goodbye_after_the_last_round_is_no_news() -> None:
    m = begun(machine(rounds=1))
    m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
    told(m, 0, Data(0, -1, (vector(3.0),)))
    told(m, 2, Data(0, -1, (vector(3.0),)))
    assert not any(isinstance(e, Note) for e in told(m, 2, Nothing(LAST, 0)))


def test_a_neighbor_that_is_ahead_and_done_has_not_left() -> None:
    # given a node in round 0 of three; a neighbor that went on while their line was cut has ended its rounds
    m = begun(machine())
    m.handle(Stepped(vector(0.0), vector(3.0)), 0.0)
    # when it says goodbye, and the line is cut again
    effects = told(m, 2, Nothing(LAST, -1)) + m.handle(PeerDown(2, 1), 0.0)
    # then it is still there for what this node has sent it
    assert not any(isinstance(e, Note) and e.text == "has left" for e in effects)
    assert not m.edges[2].gone


def test_who_was_waited_for_in_one_round_does_not_hold_up_the_next_without_it() -> None:
    rows = [Row(1, ((0, 0.5), (1, 0.5))), Row(1, ((1, 0.5), (2, 0.5)))]
    m = met(Rounds(averaging.dpsgd(), lambda t: rows[t % 2], (0, 2), 3, {"seed": 0}))
    m.handle(Begin(vector(0.0)), 0.0)
    assert adopted(m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)) is None  # node 0 is missing
    first = adopted(told(m, 0, Data(0, -1, (vector(3.0),))))
    assert first is not None

    assert adopted(told(m, 2, Data(1, -1, (vector(4.0),)))) is None  # still training
    second = adopted(m.handle(Stepped(first.x, first.x), 0.0))

    assert second is not None
    assert (second.counted, second.x.item()) == ((2,), 3.0)
