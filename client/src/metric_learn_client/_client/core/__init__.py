"""What a client decides, without sockets, threads or a clock: `blocking_shell` and `asyncio_shell` perform it."""
