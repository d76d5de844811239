"""Exchanges: when a node sends and what it waits for, as sans-IO machines."""
