#!/bin/bash
# Finds CANN and the host's driver, then becomes the server. bash: CANN's set_env.sh is written for it.
for place in nnae ascend-toolkit; do
    if [ -f "/usr/local/Ascend/$place/set_env.sh" ]; then
        # shellcheck disable=SC1090
        . "/usr/local/Ascend/$place/set_env.sh"
        break
    fi
done
driver=/usr/local/Ascend/driver/lib64
# Last: what this image's Python needs and CANN's image may lack.
export LD_LIBRARY_PATH="$driver:$driver/driver:$driver/common${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:/opt/python/extra"
exec /opt/venv/bin/python -m servable.serving_server "$@"
