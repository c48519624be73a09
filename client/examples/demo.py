"""The demo behind `make demo`: start the server, embed real photos, show neighbours as text and as a picture.

It runs the server as a command and imports nothing of it. Views of each photo (a crop, a brighter copy) give every
query a neighbour that a reader can check at a glance.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from metric_learn_client import EmbeddingClient

REPOSITORY = Path(__file__).resolve().parents[2]
SHOWN = 5
THUMB_PX = 160
# Of the pictures in scikit-image's wheel those that its documentation calls CC0, public domain or without known
# restrictions: whoever runs the demo may show its contact sheet to anybody.
PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png"),
    *("retina.jpg", "rocket.jpg", "text.png"),
)


def photos() -> dict[str, bytes]:
    """Name -> JPEG of each photo, with two further views of it."""
    made = {}
    folder = Path(skimage.data.__file__).parent
    for path in (folder / name for name in PHOTOS):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise FileNotFoundError(f"{path}: scikit-image {skimage.__version__} has no such picture")
        height, width = image.shape[:2]
        views = {
            "": image,
            "-crop": image[height // 10 : height - height // 10, width // 10 : width - width // 10],
            "-bright": cv2.convertScaleAbs(image, alpha=1.1, beta=10),
        }
        for suffix, view in views.items():
            made[path.stem + suffix] = cv2.imencode(".jpg", view)[1].tobytes()
    return made


def contact_sheet(images: dict[str, bytes], rows: list[list[tuple[str, float]]], path: Path) -> None:
    """One row per query: the query, then its neighbours with their similarity."""
    sheet = []
    for row in rows:
        cells = []
        for place, (name, similarity) in enumerate(row):
            cell = np.full((THUMB_PX + 36, THUMB_PX + 8, 3), 255, np.uint8)
            picture = cv2.imdecode(np.frombuffer(images[name], np.uint8), cv2.IMREAD_COLOR)
            scale = THUMB_PX / max(picture.shape[:2])
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            cell[4 : 4 + small.shape[0], 4 : 4 + small.shape[1]] = small
            label = f"{similarity:.5f}" if place else "query"
            for line, text in enumerate((name[:22], label)):
                cv2.putText(cell, text, (4, THUMB_PX + 16 + 14 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
            cells.append(cell)
        sheet.append(np.hstack(cells))
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.vstack(sheet))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    endpoint, http_endpoint = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="metric-learn-demo-") as run_dir:
        command = [str(REPOSITORY / ".venv/server/bin/python"), "-m", "servable.serving_server"]
        command += ["--config", "configs/cpu.yaml", "--set", f"server.address={endpoint}"]
        command += ["--set", f"server.http_address={http_endpoint}", "--set", f"server.run_dir={run_dir}"]
        command += ["--set", "server.api_address=127.0.0.1:0", "--set", "log.level=warning"]
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            if not line.startswith("ready"):
                return server.wait() or 1
            print(line)
            images = photos()
            with EmbeddingClient(endpoint, deadline_s=120) as client:
                embeddings = client.embed(list(images.values())).embeddings
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    names = list(images)
    originals = [index for index, name in enumerate(names) if not name.endswith(("-crop", "-bright"))]
    print(f"embedded {len(names)} pictures ({len(originals)} photos, each with two more views)")
    similarity = embeddings @ embeddings.T
    rows = []
    for query in originals[:: max(1, len(originals) // SHOWN)][:SHOWN]:
        nearest = [index for index in np.argsort(-similarity[query], kind="stable") if index != query][:4]
        rows.append([(names[query], 1.0)] + [(names[index], float(similarity[query, index])) for index in nearest])
        print(f"{names[query]:24} " + "  ".join(f"{name} {value:.5f}" for name, value in rows[-1][1:]))
    sheet = REPOSITORY / "demo-output" / "contact-sheet.png"
    contact_sheet(images, rows, sheet)
    print(f"contact sheet: {sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
