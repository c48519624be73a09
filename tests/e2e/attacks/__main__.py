"""python -m tests.e2e.attacks NAME HOST:PORT --seconds S --count N [--connections C] [--tls]: one attack, then JSON.

Runs in a process of its own, so that the caller who is watched beside it shares no interpreter with it. Loopback only.
"""

import argparse
import itertools
import json
import threading
import time

from .connection import Connection
from .floods import FLOODS, HTTP_FLOODS
from .http2_floods import HTTP2_FLOODS
from .http_floods import API_FLOODS, api_large_bodies
from .uneven_floods import UNEVEN_FLOODS

# With the one that costs more than the others, and so is not in the lists.
ALL = {
    flood.__name__: flood
    for flood in [
        *FLOODS,
        *HTTP2_FLOODS,
        *UNEVEN_FLOODS,
        *HTTP_FLOODS,
        *API_FLOODS,
        api_large_bodies,
    ]
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(ALL))
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    assert arguments.endpoint.startswith(("127.0.0.1:", "localhost:")), "these attacks are for loopback only"
    flood = ALL[arguments.name]
    ended = [{} for _ in range(arguments.connections)]
    threads = [threading.Thread(target=_run, args=(flood, arguments, result)) for result in ended]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"sent": sum(each["sent"] for each in ended), "refused": sum(each["refused"] for each in ended)}))


def _run(flood, arguments, result):
    """Opens again whenever the server has closed, as an attacker would."""
    end, most = time.monotonic() + arguments.seconds, arguments.count / arguments.connections
    sent = refused = 0
    opened = []

    def open_connection(**options):
        connection = Connection(arguments.endpoint, tls=arguments.tls, **options)
        opened.append(connection)
        return connection

    while time.monotonic() < end and sent < most:
        try:
            for done in itertools.takewhile(lambda _: time.monotonic() < end, flood(open_connection)):
                sent += done
                if sent >= most:
                    break
        except OSError:
            refused += 1
            while opened:
                opened.pop().close()
    time.sleep(max(0.0, end - time.monotonic()))  # what stays open stays open
    for connection in opened:
        connection.close()
    result.update(sent=sent, refused=refused)


if __name__ == "__main__":
    main()
