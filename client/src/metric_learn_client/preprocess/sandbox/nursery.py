"""The nursery as its pool sees it: the process that forks decoders when asked, ends one, and tells how each ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Optional

from metric_learn_client.preprocess.sandbox.decoder import Decoder
from metric_learn_client.preprocess.sandbox.decoder_process import (
    ENDED_PACKET,
    FORK,
    KILL,
    KILL_PACKET,
    PACKET_BYTES,
    DecoderSettings,
)

# What of the environment it gets: how to find libraries, which resize, and whose it is. No secrets.
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "METRIC_LEARN_RESIZE", "METRIC_LEARN_RUN_DIR")


class Nursery:
    """Starts one. The kernel ends it with the thread that does so, and its decoders with it."""

    def __init__(self, settings: DecoderSettings) -> None:
        self.answered = 0.0  # when one of its decoders last said that it is there
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment.update(PYTHONSAFEPATH="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        environment.update(OPENCV_FOR_THREADS_NUM="1", OPENCV_LOG_LEVEL="OFF")  # a picture writes no lines
        module = "metric_learn_client.preprocess.sandbox.decoder_process"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), settings.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for the caller
            )
        self.control.setblocking(False)  # one that is stopped must not hold up the pool's thread

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def fork(self, decoder: Decoder) -> bool:
        """Asks for the process of `decoder`. False: the nursery is gone, as its socket will say."""
        try:
            socket.send_fds(self.control, [FORK], [decoder.theirs.fileno(), decoder.slot])
        except OSError:
            return False
        decoder.theirs.close()  # ours; its end is seen when the decoder's is closed
        return True

    def kill(self, decoder: Decoder) -> None:
        with contextlib.suppress(OSError):  # it is gone, as its socket will say
            self.control.send(KILL_PACKET.pack(KILL, decoder.pid))

    def ended_decoder(self) -> Optional[tuple[int, int]]:
        """Process id and wait status of a decoder that ended; None where the nursery itself did."""
        try:
            packet = self.control.recv(PACKET_BYTES)
        except OSError:
            return None
        return ENDED_PACKET.unpack(packet) if packet else None

    def end(self) -> int:
        """At once, and the kernel ends its decoders. Returns its exit code, or minus the signal that had ended it."""
        self.control.close()
        self._process.kill()
        return self._process.wait()
