"""The Open Inference Protocol v2, REST with binary tensors and gRPC: other forms of the same call as Predict."""
