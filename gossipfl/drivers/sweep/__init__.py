"""A grid of runs: in a file, on many processes, kept in one SQLite file, resumed at any time."""
