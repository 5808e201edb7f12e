"""One job: the cascade of attempts at its entry, admission and deduplication at its worker."""
