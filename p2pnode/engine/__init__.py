"""What runs the model: one protocol (``base``) and its kinds: mock, OpenAI-compatible server, supervised vLLM.

An engine knows nothing of peers, gossip or HTTP requests; it is given the body of an OpenAI request and answers with
the pieces of an OpenAI answer.
"""
