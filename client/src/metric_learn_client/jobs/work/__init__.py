"""From planned rows to embeddings: read, sent and written at once, by one worker or many."""
