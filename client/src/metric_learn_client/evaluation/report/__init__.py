"""The pages that people look at: an evaluation, the results of a search."""
