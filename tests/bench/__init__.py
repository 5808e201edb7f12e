"""What a request, a token, a decision and a second of gossip cost: ``make bench``.  Measured, never asserted."""
