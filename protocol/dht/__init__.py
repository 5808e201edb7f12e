"""The distributed hash table (Kademlia): routing table, look-ups, and the records kept for others."""
