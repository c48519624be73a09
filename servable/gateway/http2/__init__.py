"""gRPC on HTTP/2 (RFC 9113), frame by frame on the event loop: the public port, and the calls to MindSpore Serving."""
