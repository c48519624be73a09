"""`serving_server --report`: one file that tells what a host is, and how the server starts, answers and performs there.

findings    versions, options, devices: read, nothing started
trial       MindSpore Serving started for it: times, parity, speed, memory
document    both in one, with the verdict
"""
