"""What runs in Python 3.9 (`.venv/engine`): MindSpore Serving's master, and what its workers share with the server.

Nothing is imported here, and the modules of this folder import the standard library alone (the master MindSpore Serving
as well): the server imports them too, for the layouts that both must agree on.
"""
