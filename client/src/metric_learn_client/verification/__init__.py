"""Proof that an endpoint gives the trained model's embeddings, and what it looks like where it does not.

golden      pictures with reference embeddings, on disk
parity      relative distance row by row, tolerances, the verdict
mistakes    the known ways to get the pixels wrong
diagnosis   which of them explains a difference
check       all of it together: the parity gate
verdict     what came out, as text and as JSON
"""
