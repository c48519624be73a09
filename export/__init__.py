"""Checkpoint -> MindIR files that MindSpore Serving can serve. Runs in the export environment (MindSpore 2.0)."""
