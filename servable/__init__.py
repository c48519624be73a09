"""The server: a gateway before a supervised MindSpore Serving 2.0.2 with the servable metric_learn.

Two interpreters run this folder. `engine/` and `metric_learn/` are MindSpore Serving's, in `.venv/engine` (Python 3.9).
All else is the server's own, in `.venv/server` (Python 3.10 to 3.13).
"""
