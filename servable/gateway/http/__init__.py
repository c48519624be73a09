"""The API over HTTP: one server, one application, and a form for each kind of client."""
