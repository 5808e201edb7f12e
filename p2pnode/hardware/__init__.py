"""Hardware discovery: one probe per vendor, each in a child process with a time limit, because drivers hang.

``probe`` runs all of them once (``survey``) or watches the NVIDIA cards (``watch``).  ``nvidia`` and ``amd`` are the
children; ``cpu`` needs none.  Nothing here imports the rest of ``p2pnode``.
"""
