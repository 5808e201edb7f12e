"""Frames between two peers: the multiplexer of one link, the messages it carries, the signed end of a job."""
