"""Engines, which run models: one protocol (``base``), implemented by a mock, an OpenAI-compatible server and vLLM.

An engine takes the body of an OpenAI request and returns the pieces of an OpenAI answer.  It knows nothing of peers,
gossip or HTTP clients.
"""
