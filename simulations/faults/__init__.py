"""What breaks: faults of the network and of machines, and nodes that come and go."""
