"""What the client, the server and the export must agree on. Needs the standard library and NumPy, nothing else.

image_codes  why one image has no embedding
"""
