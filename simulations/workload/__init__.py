"""The jobs that arrive: arrival processes, conversations, recorded traces, and the popularity of models."""
