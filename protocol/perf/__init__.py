"""How fast a GPU answers: the catalogue of GPUs, the cost model, and the engine of a simulated GPU."""
