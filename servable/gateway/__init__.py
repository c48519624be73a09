"""The gateway: what stands between callers and MindSpore Serving, and makes its one call safe to expose."""
