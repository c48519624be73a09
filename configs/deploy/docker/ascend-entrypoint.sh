#!/bin/sh
# Becomes the server, which finds CANN and the host's driver itself. Last in the path: what this image's Pythons need
# and CANN's image may lack.
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/opt/python/extra"
exec /opt/venv/server/bin/python -m servable.serving_server "$@"
