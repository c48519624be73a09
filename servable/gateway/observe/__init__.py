"""What operators see: metrics, log lines, spans, the HTTP pages, and the health calls."""
