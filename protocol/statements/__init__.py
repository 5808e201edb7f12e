"""Signed statements: the keys that sign them, their content, their envelope and the order of their versions."""
