"""The output of a job as objects of a store: conditional writes, and what is built on them: leases and commits."""
