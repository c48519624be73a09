"""The server: MindSpore Serving 2.0.2 with the servable metric_learn. Runs in the server environment (Python 3.9)."""
