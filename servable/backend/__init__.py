"""The supervised MindSpore Serving behind the gateway: how it is started, proved, watched, replaced and cleaned up.

Nothing is imported here: MindSpore Serving's master and workers import modules of this folder, and must start at once.
"""
