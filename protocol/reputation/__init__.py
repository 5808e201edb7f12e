"""What one observer has learned of its peers from its own jobs: outcomes, evidence, and what follows from them."""
