"""Which peers there are: the peer view and its columns, the failure detector, the overlay of standing links."""
