"""A headless Chromium, driven over a pipe in the words of the Chrome DevTools Protocol. No web driver, no library.

Protocol: https://chromedevtools.github.io/devtools-protocol/; over the pipe each message is JSON and a zero byte, the
browser reads descriptor 3 and writes descriptor 4.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

WAIT_S = 60
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-background-networking "
    "--disable-component-update --hide-scrollbars --remote-debugging-pipe"
)


class Browser:
    """One window. `url` is loaded by `open`; `evaluate` gives the value of an expression there."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._number, self._rest, self._session = 0, b"", None
        self.said = []  # what the page wrote to its console: errors, broken policies
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        """The command's result; events that come before it are looked at on the way."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        answer = json.loads(message)
        if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.said.append(json.dumps(answer["params"])[:500])
        return answer

    def size(self, width, height=1000, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression):
        done = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression):
        """Waits until the expression is true in the page, and returns its value."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            value = self.evaluate(expression)
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"{expression} did not come true within {WAIT_S} s; the page: {self.text()[:2000]}")

    def text(self):
        return self.evaluate("document.body.innerText")

    def choose(self, selector, paths):
        """As somebody who picks files in the dialogue of a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, selector, paths):
        """As somebody who drags files from their desktop over the element and lets go."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView();"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        dragged = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=dragged)

    def type(self, text):
        self.send("Input.insertText", text=text)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser(profile):
    """A browser with a new profile in the folder `profile`. Ends with the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [chromium(), *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    arrange = 'r=$1 w=$2; shift 2; exec "$@" 3<&"$r" 4>&"$w"'  # descriptors 3 and 4, whichever numbers these have here
    process = subprocess.Popen(
        ["bash", "-c", arrange, "bash", str(to_read), str(from_write), *command],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    watchdog = threading.Timer(4 * WAIT_S, process.kill)
    watchdog.start()
    try:
        yield Browser(to_write, from_read)
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(WAIT_S)
        os.close(to_write)
        os.close(from_read)
