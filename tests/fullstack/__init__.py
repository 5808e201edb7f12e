"""The whole daemon, many times in one process, on a TCP network and a clock that are both virtual."""
