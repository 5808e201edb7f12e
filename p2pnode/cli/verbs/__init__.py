"""One module per verb; each exports its click command as ``command``, and is imported when the verb is used."""
