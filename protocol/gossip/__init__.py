"""Dissemination of signed statements: validation, publication, send queues, anti-entropy, and the upload budget."""
