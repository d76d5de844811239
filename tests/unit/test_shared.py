"""Shared memory: what is left in a slot is what a neighbor reads, and nobody writes there while it may."""

from __future__ import annotations

import os

import pytest
import torch

from gossipfl.core.messages import Data
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.shared import SLOTS, Commons, Shelf
from gossipfl.transport.wire import Decoder, Layout, encode_here

D = 1000
PLAIN = Layout(((D, torch.float32),))
PARTS = Layout(((D, torch.float32), (1, torch.float64), (7, torch.bfloat16)))


def payload(value: float) -> tuple[torch.Tensor, ...]:
    return (torch.full((D,), value),)


def test_another_process_reads_what_was_placed() -> None:
    commons = Commons(2, PARTS)
    parts = (torch.randn(D), torch.randn(1, dtype=torch.float64), torch.randn(7).bfloat16())
    ready, told = os.pipe()

    pid = os.fork()
    if pid == 0:
        slot = Shelf(commons, 1).place(parts)
        os.write(told, bytes([255 if slot is None else slot]))
        os._exit(0)
    slot = os.read(ready, 1)[0]
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(told)

    assert all(torch.equal(a, b) for a, b in zip(commons.read(1, slot), parts, strict=True))


def test_a_slot_is_not_written_while_its_payload_is_kept() -> None:
    commons = Commons(1, PLAIN)
    shelf = Shelf(commons, 0)
    kept = [payload(float(k)) for k in range(SLOTS)]
    slots = [shelf.place(one) for one in kept]

    assert sorted(map(str, slots)) == sorted(map(str, range(SLOTS)))
    assert shelf.place(payload(9.0)) is None  # it goes over the socket
    assert shelf.room(torch.empty(D)).data_ptr() not in {commons.slot(0, k).ctypes.data for k in range(SLOTS)}
    for k, slot in enumerate(slots):
        assert slot is not None
        assert (commons.read(0, slot)[0] == float(k)).all()


def test_a_payload_that_goes_once_more_is_where_it_was() -> None:
    shelf = Shelf(Commons(1, PLAIN), 0)
    one, other = payload(1.0), payload(2.0)
    slot = shelf.place(one)

    assert shelf.place(other) != slot
    assert shelf.place(one) == slot


def test_a_slot_is_free_when_nothing_refers_to_it() -> None:
    shelf = Shelf(Commons(1, PLAIN), 0)
    kept = [payload(float(k)) for k in range(SLOTS)]
    slots = [shelf.place(one) for one in kept]

    del kept[2]

    assert shelf.place(payload(9.0)) == slots[2]


def test_memory_from_a_slot_is_sent_as_it_is_and_kept_while_a_view_of_it_is() -> None:
    commons = Commons(1, PLAIN)
    shelf = Shelf(commons, 0)
    vector = shelf.room(torch.empty(D))
    vector.fill_(3.0)
    view = vector.detach()[10:20]

    slot = shelf.place((vector.detach(),))
    assert slot is not None
    assert commons.read(0, slot)[0].data_ptr() == vector.data_ptr()

    del vector
    others = [shelf.room(torch.empty(D)).fill_(4.0) for _ in range(SLOTS)]
    assert (view == 3.0).all()
    assert len(others) == SLOTS
    del view
    assert shelf.place(payload(5.0)) == slot


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_no_neighbor_would_take_is_not_placed(value: float) -> None:
    assert Shelf(Commons(1, PLAIN), 0).place(payload(value)) is None


def test_a_payload_of_another_shape_is_not_placed() -> None:
    shelf = Shelf(Commons(1, PLAIN), 0)
    assert shelf.place((torch.zeros(D - 1),)) is None
    assert shelf.place((torch.zeros(D, dtype=torch.float64),)) is None


@pytest.mark.parametrize(("node", "slot"), [(0, SLOTS), (0, -1), (1, 0)])
def test_there_is_no_other_slot(node: int, slot: int) -> None:
    with pytest.raises(RemoteProtocolError):
        Commons(1, PLAIN).read(node, slot)


def test_here_is_data_with_what_lies_in_the_slot() -> None:
    commons = Commons(1, PLAIN)
    slot = Shelf(commons, 0).place(payload(2.5))
    assert slot is not None
    frame = encode_here(Data(4, 3, ()), slot)

    done = Decoder(PLAIN, lambda k: commons.read(0, k)).feed([frame])

    assert done is not None
    message = done[0]
    assert isinstance(message, Data)
    assert (message.round, message.counted) == (4, 3)
    assert (message.payload[0] == 2.5).all()


def test_here_of_a_stranger_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="no memory is shared"):
        Decoder(PLAIN).feed([encode_here(Data(0, -1, ()), 0)])
