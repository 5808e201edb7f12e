"""Experiments: scenario files and sweeps, runs in processes, goals, baselines, comparison and fuzzing."""
