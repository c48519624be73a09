"""How much of everything there is at one time, for all callers and for each: calls, bodies, connections, time."""
