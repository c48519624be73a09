"""python -m tests.e2e.attacks.fuzz_http HOST:PORT --count N [--seed S]: hostile requests, then JSON about the answers.

In a process of its own, so that a caller who is watched beside it shares no interpreter with it. Loopback only.
"""

import argparse
import asyncio
import json
import time
from collections import Counter

from .http_requests import attacks

AT_ONCE = 24
BOUND_S = 60.0  # without an answer or an end by then: a hang
QUIET_S = 1.0  # nothing more comes for this long: there is no further answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(fuzz(arguments.endpoint, arguments.count, arguments.seed))))


async def fuzz(endpoint, count, seed):
    """What was answered, as a dict; "faults" is empty where nothing was wrong."""
    host, port = endpoint.rsplit(":", 1)
    assert host in ("127.0.0.1", "localhost"), "these attacks are for loopback only"
    began, statuses, requests, faults, slowest = time.monotonic(), Counter(), 0, [], (0.0, "")
    numbered = enumerate(attacks(seed, count))

    async def attack():
        nonlocal slowest, requests
        for number, each in numbered:
            start = time.monotonic()
            try:
                answers = await asyncio.wait_for(_send(host, int(port), each), BOUND_S)
            except asyncio.TimeoutError:
                faults.append(f"{number} {each.kind}: neither an answer nor an end within {BOUND_S} s")
                answers = []
            slowest = max(slowest, (time.monotonic() - start, f"{number} {each.kind}"))
            requests += 1
            statuses.update(answers or ["closed"])
            if len(answers) > each.most_answers:
                faults.append(f"{number} {each.kind}: {len(answers)} answers, {answers}")
            if any(status >= 500 and status not in (503, 504) for status in answers):
                faults.append(f"{number} {each.kind}: {answers}")
            if each.kind == "honest" and answers not in ([200], [429], [503]):
                faults.append(f"{number} {each.kind}: {answers}")

    await asyncio.gather(*(attack() for _ in range(AT_ONCE)))
    return {
        "requests": requests,
        "statuses": {str(status): count for status, count in sorted(statuses.items(), key=str)},
        "faults": faults,
        "slowest_s": round(slowest[0], 2),
        "slowest": slowest[1],
        "seconds": round(time.monotonic() - began, 1),
    }


async def _send(host, port, attack):
    """The statuses of the answers; none where the server closed, or where the attack did not wait."""
    reader, writer = await asyncio.open_connection(host, port)
    statuses = []
    try:
        for part in attack.parts:
            writer.write(part)
            await asyncio.wait_for(writer.drain(), 5)
            if attack.pause_s:
                await asyncio.sleep(attack.pause_s)
        if attack.end != "cut":
            is_head = attack.parts[0].startswith(b"HEAD")
            statuses.append(await _answer(reader, is_head))
            while attack.end == "drain" or len(statuses) < attack.most_answers:
                statuses.append(await asyncio.wait_for(_answer(reader, is_head), QUIET_S))
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        pass  # the server closed, as it may
    finally:
        writer.transport.abort()
    return statuses


async def _answer(reader, is_head):
    """The status of the next final answer, once all of it has come."""
    line = await reader.readuntil(b"\r\n")
    version, _, rest = line.partition(b" ")
    assert version in (b"HTTP/1.1", b"HTTP/1.0"), line
    status, length, chunked = int(rest[:3]), None, False
    while (line := (await reader.readuntil(b"\r\n")).strip().lower()) != b"":
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
        chunked |= name == b"transfer-encoding" and b"chunked" in value
    if 100 <= status < 200 and status != 101:
        return await _answer(reader, is_head)
    if chunked:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif length is None and not is_head and status not in (204, 304):
        await reader.read()
    elif not is_head:
        await reader.readexactly(length or 0)
    return status


if __name__ == "__main__":
    main()
