"""What systemd does for a server with Type=notify, WatchdogSec and Restart=always, in a few lines."""

import os
import socket
import subprocess
import threading
import time

from .conftest import REPOSITORY, VERSIONS, free_port


class ServiceManager:
    """Keeps a server process running: starts it again when it ends, kills it when its sign of life stays away.

    `with ServiceManager(run_dir) as manager:`; manager.process is the present one.
    """

    def __init__(self, run_dir, *flags, watchdog_s=3.0):
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.watchdog_s = watchdog_s
        self.process = None
        self.watchdog_kills = 0
        self.ended = []  # the exit codes of those in whose place another was started
        self.notified = []
        self.ready = threading.Event()
        self._run_dir = run_dir
        self._flags = flags
        self._stopping = threading.Event()
        self._sign_of_life = 0.0

    def __enter__(self):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._path = os.path.join(str(self._run_dir) + "-notify")
        self._socket.bind(self._path)
        self._socket.settimeout(0.1)
        self._start()
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._keep)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self.process.poll() is None:
            self.process.terminate()
        self.exit_code = self.process.wait(60)
        self._socket.close()
        os.unlink(self._path)

    def _start(self):
        command = [str(REPOSITORY / ".venv" / "server" / "bin" / "python"), "-m", "servable.serving_server"]
        settings = [f"server.address={self.endpoint}", f"server.http_address=127.0.0.1:{free_port()}"]
        settings.append("server.api_address=127.0.0.1:0")
        settings += [f"server.run_dir={self._run_dir}", f"model.directory={VERSIONS}", *self._flags]
        for setting in settings:
            command += ["--set", setting]
        environment = {**os.environ, "NOTIFY_SOCKET": self._path, "WATCHDOG_USEC": str(int(self.watchdog_s * 1e6))}
        self.ready.clear()
        self._sign_of_life = time.monotonic() + 10  # before the first one
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _listen(self):
        while not self._stopping.is_set():
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                continue
            if text == "WATCHDOG=1":
                self._sign_of_life = time.monotonic()
            else:
                self.notified.append(text)
            if "READY=1" in text:
                self.ready.set()

    def _keep(self):
        while not self._stopping.wait(0.05):
            if self.process.poll() is not None:
                self.ended.append(self.process.returncode)
                self._start()
            elif time.monotonic() - self._sign_of_life > self.watchdog_s:
                self.watchdog_kills += 1
                self.process.kill()
                self.process.wait()
