"""The rows of an input, in an order that depends on the input alone. One module per kind of input.

`input_kinds.open_input` decides the kind. Every kind gives the same things: `columns` (the user's), `sources` (files
that several rows share), `batches()` (rows to plan, as Arrow) and `signature()` (a cheap sign that nothing changed,
where there is one). Nothing is imported here: the reader of lists also serves commands that do without Arrow.
"""
