"""The HTTP API.

General layout
==============

``server`` listens and holds ``connection``s, each of which drives hypercorn's ``http1``; ``app`` is the ASGI app behind
them: ``gate`` first, then ``openai`` for what runs a model, and Quart with ``local`` and ``health`` for the rest.
``gateway`` is what all of it needs of the node.
"""
