"""Which rows a job has, and in which shard each is: planned once, on disk, before the first is sent."""
