"""Faults of the network and of machines, and churn."""
