"""Rounds of averaging of hivemind beside gossipfl's, among processes of one machine.

    python3.11 -m venv /tmp/hivemind && /tmp/hivemind/bin/pip install hivemind==1.1.12
    /tmp/hivemind/bin/python bench/peers/hivemind_rounds.py --gossipfl .venv/bin/gossipfl [--parameters 50000]

Eight processes average a vector of float32. hivemind has no graph: its peers find each other over a DHT,
agree on a group, and all-reduce within it, here all eight each time: a round of it mixes fully where one of
gossipfl, on a ring, moves to two neighbors. Its matchmaking waits for others, by default five seconds; it is
given as little as it worked with here, which is most of a round of 50,000 parameters. Rounds that failed do
not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import hivemind
import torch
from hivemind.averaging import DecentralizedAverager
from ours import bench, tell

NODES = 8
MATCHMAKING = 0.5  # seconds; with 0.1 no group was found


def live(peers: list[str], parameters: int, rounds: int, line: Connection) -> None:
    """A peer, from its start to its end: tells the seconds of each round that was made."""
    torch.set_num_threads(1)
    dht = hivemind.DHT(initial_peers=peers, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    averager = DecentralizedAverager(
        [torch.randn(parameters)],
        dht,
        start=True,
        prefix="bench",
        target_group_size=NODES,
        min_group_size=NODES,
        min_matchmaking_time=MATCHMAKING,
        request_timeout=MATCHMAKING / 2,
    )
    line.send(None)
    line.recv()
    times = list[float]()
    for _ in range(rounds):
        began = time.perf_counter()
        try:
            if averager.step(timeout=20) is not None:
                times.append(time.perf_counter() - began)
        except Exception as error:  # what a peer raises for a round that it did not make
            print(f"a round failed: {type(error).__name__}: {error}", flush=True)
    line.send(times)
    line.recv()
    averager.shutdown()
    dht.shutdown()


def rounds_per_second(parameters: int, rounds: int) -> float:
    """Of the peers: the median of their rounds."""
    first = hivemind.DHT(start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    address = [str(a) for a in first.get_visible_maddrs()]
    lines, children = list[Connection](), list[multiprocessing.Process]()
    for _ in range(NODES):
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.Process(target=live, args=(address, parameters, rounds, theirs))
        child.start()
        lines.append(ours)
        children.append(child)
    try:
        for word in ("begin", "end"):
            told = [line.recv() for line in lines]
            for line in lines:
                line.send(word)
        for child in children:
            child.join(30)
    finally:
        for child in children:
            child.kill()
        first.shutdown()
    times = [seconds for each in told for seconds in each]
    if not times:
        raise SystemExit("no round was made")
    print(f"{len(times)} of {rounds * NODES} rounds were made", flush=True)
    return 1 / statistics.median(times)


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gossipfl", default="gossipfl", help="the command")
    parser.add_argument("--parameters", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--transport", default="tcp")
    options = parser.parse_args()
    peer = rounds_per_second(options.parameters, options.rounds)
    words = ("--parameters", str(options.parameters), "--transport", options.transport, "--turns", "1")
    own = bench(options.gossipfl, *words)
    what = f"{NODES} nodes, {options.parameters:,} parameters, gossipfl over {options.transport}, rounds/s"
    tell(what, peer, own["rounds_per_second"])


if __name__ == "__main__":
    main()
