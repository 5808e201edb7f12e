"""Jobs at both ends: dispatch and its attempts at the entry, the worker and the slots of its engine, the records."""
