"""Load on an endpoint, and figures only from where it is stable."""
