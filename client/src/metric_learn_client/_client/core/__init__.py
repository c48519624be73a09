"""What a client decides, without sockets, threads or a clock: `client` and `aio` perform it."""
