"""The state on disk: home directory, paths, keys and the ledger (SQLite)."""
