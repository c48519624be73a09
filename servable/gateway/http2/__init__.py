"""The gRPC port: HTTP/2 (RFC 9113) as gRPC speaks it, read frame by frame on the event loop."""
