"""The HTTP API.

General layout
==============

``server`` accepts ``connection``s; each one drives hypercorn's protocol (``http1``).  ``app`` is the ASGI app behind
them.  Every request passes ``gate``; ``openai`` answers the endpoints that run a model, and Quart serves ``local`` and
``health``.  ``gateway`` is the interface of the node that the API uses.
"""
