"""What the client costs beside MindSpore Serving's own: CPU and throughput, side by side in one run.

.venv/client/bin/python -m tests.benchmarks.client_cost [--json]

Three ways of one request against one fake servable that answers at once: the stock client (mindspore_serving.client, in
the export environment, which alone can hold it), this client, and the bare gRPC call with the request ready made, which
is what any client in this language pays. Rounds alternate between the ways, so that whatever else the machine does
meets all alike; the median round counts. CPU is the client process', all threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = str(REPOSITORY / ".venv" / "client" / "bin" / "python")
STOCK = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
IMAGE_BYTES = (1_000, 60_000)  # next to nothing, so that the client itself shows; a 500 x 400 photo as JPEG
IMAGES_PER_CALL = (1, 8, 32, 64)
ROUNDS = 3
IMAGES_PER_ROUND = 3_000

SERVER = (
    "import sys\n"
    "from metric_learn_client.testing import FakeServable\n"
    "with FakeServable() as server:\n"
    "    print(server.endpoint, flush=True)\n"
    "    sys.stdin.read()\n"
)
MEASURE = """
import sys, time
endpoint, size, batch, images = sys.argv[1], *map(int, sys.argv[2:])
picture = bytes(range(256)) * (size // 256 + 1)
picture = picture[:size]
{setup}
calls = max(10, images // batch)
for _ in range(max(5, calls // 10)):
    call()
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(calls):
    call()
done = calls * batch
print((time.process_time() - cpu) / done, done / (time.perf_counter() - wall))
"""
WAYS = {
    "stock": (
        STOCK,
        "from mindspore_serving.client import Client\n"
        "client = Client(endpoint, 'metric_learn', 'embed')\n"
        "def call():\n"
        "    rows = client.infer([{'image': picture} for _ in range(batch)])\n"
        "    assert len(rows) == batch and len(rows[0]['embedding']) == 2048\n",
    ),
    "this": (
        CLIENT,
        "from metric_learn_client import EmbeddingClient\n"
        "client = EmbeddingClient(endpoint, batch_size=batch)\n"
        "def call():\n"
        "    assert client.embed([picture] * batch).embeddings.shape == (batch, 2048)\n",
    ),
    "bare": (
        CLIENT,
        "import grpc\n"
        "from metric_learn_client import wire\n"
        "from metric_learn_client.wire.instances import encode_request\n"
        "channel = grpc.insecure_channel(endpoint, options=[('grpc.max_receive_message_length', -1)])\n"
        "predict = channel.unary_unary(wire.PREDICT_PATH)\n"
        "body = encode_request('embed', [picture] * batch)\n"
        "def call():\n"
        "    assert len(predict(body)) > 8192 * batch\n",
    ),
}


def measure(way: str, endpoint: str, size: int, batch: int) -> tuple[float, float]:
    """(CPU seconds per image, images per second) of one round."""
    python, setup = WAYS[way]
    command = [python, "-c", MEASURE.format(setup=setup), endpoint, str(size), str(batch), str(IMAGES_PER_ROUND)]
    cpu, rate = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(cpu), float(rate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    server = subprocess.Popen([CLIENT, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        if not as_json:
            print("medians of CPU us per image and images/s; share: this / stock (bare / stock); own: above bare")
        for size in IMAGE_BYTES:
            for batch in IMAGES_PER_CALL:
                rounds = [{way: measure(way, endpoint, size, batch) for way in WAYS} for _ in range(ROUNDS)]
                cpu = {way: 1e6 * statistics.median(each[way][0] for each in rounds) for way in WAYS}
                rate = {way: statistics.median(each[way][1] for each in rounds) for way in WAYS}
                above_bare = max(1e-9, cpu["stock"] - cpu["bare"])
                row = {
                    "image_bytes": size,
                    "images_per_call": batch,
                    "cpu_us_per_image": {way: round(value, 1) for way, value in cpu.items()},
                    "images_per_s": {way: round(value) for way, value in rate.items()},
                    "share": round(cpu["this"] / cpu["stock"], 3),
                    "bare_share": round(cpu["bare"] / cpu["stock"], 3),
                    "own_share": round((cpu["this"] - cpu["bare"]) / above_bare, 3),
                }
                if as_json:
                    print(json.dumps(row), flush=True)
                    continue
                figures = "  ".join(f"{way} {cpu[way]:6.1f} us {rate[way]:6.0f}/s" for way in WAYS)
                shares = f"share {row['share']} (bare {row['bare_share']})  own share {row['own_share']}"
                print(f"{size:6} bytes x {batch:2}  {figures}  {shares}", flush=True)
    finally:
        server.kill()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
