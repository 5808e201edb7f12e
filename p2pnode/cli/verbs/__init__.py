"""One module per verb, which exports its click command as ``command`` and is imported on use."""
