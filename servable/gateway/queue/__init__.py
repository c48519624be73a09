"""Images between the calls and the backend: waiting, in batches, and under suspicion."""
