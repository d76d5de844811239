"""gossipfl: decentralized peer-to-peer learning. Serverless nodes on a graph, PyTorch locally, gossip over ZeroMQ."""

from __future__ import annotations

__version__ = "0.1.0"
