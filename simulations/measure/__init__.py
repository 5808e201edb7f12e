"""What is observed: samples and metrics, and the invariants that every run has to keep."""
