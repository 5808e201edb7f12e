"""What outlives a run of the daemon: home directory, paths, keys and the ledger (SQLite)."""
