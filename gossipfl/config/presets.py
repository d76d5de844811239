"""`network.preset`: networks by name, with where their numbers come from.

What a preset says stands in for the keys that a config leaves out; each of them can be set.

lan             Gigabit Ethernet, by its standard (IEEE 802.3ab); a round trip of .2 ms is assumed.
datacenter      One availability zone of a cloud: round trips of .09 ms (IBM Cloud, latency between virtual
                servers of one zone in Dallas, 27 July to 25 August 2024); 5 Gbit/s for a single connection
                (Amazon EC2 User Guide, "Amazon EC2 instance network bandwidth").
wan-5-regions   Washington, Frankfurt, Tokyo, Sydney, Sao Paulo: mean round trips (IBM Cloud, inter-region
                latency, the same month; ibm-cloud-docs/vpc, network-latency.md), halved; 2 ms between two
                nodes of a region, as between zones there. 5 Gbit/s a node to other regions (Amazon EC2 User
                Guide), and a window of 4 MiB a connection, the largest that Linux gives a sender by default
                (tcp(7), tcp_wmem). The first fifth of the nodes is in the first region, and so on.
mobile          Phones: 11.22 Mbit/s up, 35.96 Mbit/s down, 40 ms to a server close by (Ookla, Speedtest
                Global Index, mobile, September 2020, world means). Two phones talk through two such lines, so
                the round trip between them is twice that. How far phones differ is assumed: a factor of e^.8
                in speed, of e^.5 in latency and in the time of a step. Nobody goes away unless uptime is
                set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gossipfl.config.network import Network
from gossipfl.config.spreads import REGIONS

PRESETS: Final[Mapping[str, Mapping[str, object]]] = {
    "lan": {"latency": 0.0001, "upload": 1000.0, "download": 1000.0},
    "datacenter": {"latency": 0.000045, "bandwidth": 5000.0},
    "wan-5-regions": {"latency": REGIONS, "upload": 5000.0, "download": 5000.0, "window": 4.194304},
    "mobile": {
        "latency": "lognormal:0.04,0.5",
        "upload": "lognormal:11.22,0.8",
        "download": "lognormal:35.96,0.8",
        "compute": "lognormal:0.01,0.5",
    },
}
"""Preset -> key of `[network]` -> value."""

REGION_NAMES: Final = ("Washington", "Frankfurt", "Tokyo", "Sydney", "Sao Paulo")
ROUND_TRIPS: Final = (
    (2, 91, 164, 214, 118),
    (91, 2, 233, 250, 198),
    (166, 233, 2, 115, 284),
    (214, 249, 115, 2, 328),
    (119, 196, 283, 328, 2),
)
"""Milliseconds from a region (row) to another (column) and back."""


def apply(table: dict[str, object]) -> None:
    """Fill in what the table's preset says and the table does not; in place."""
    name = table.get("preset")
    for key, value in PRESETS.get(name, {}).items() if isinstance(name, str) else ():
        table.setdefault(key, value)


def forget(table: dict[str, object]) -> None:
    """Take out what another preset (or none) has put there, so that a new one can; in place."""
    name = table.get("preset")
    before = PRESETS.get(name, {}) if isinstance(name, str) else {}
    for key, default in Network().table().items():
        if key in table and table[key] == before.get(key, default):
            del table[key]
