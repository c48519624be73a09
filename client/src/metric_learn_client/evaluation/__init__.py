"""Evaluation: which images come back for an image, with the protocol and the verdict beside the numbers."""
