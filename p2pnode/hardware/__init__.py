"""What this machine has: one probe per vendor, each in a child process with a time limit, because drivers hang.

``probe`` runs them all once (``survey``) or keeps watching (``Watch``); ``nvidia`` and ``amd`` are the children;
``cpu`` needs none.  Knows nobody else in ``p2pnode``.
"""
