"""One job: candidates and the cascade of attempts at its entry, admission and deduplication at its worker."""
