"""Observation of a run: samples, metrics, and the invariants that every run has to keep."""
