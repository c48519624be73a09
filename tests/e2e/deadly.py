"""A servable that some pictures end or hold up: a copy of this repository's server code with one stage patched.

The patch is in the stage's own function, in MindSpore Serving's worker: what the decoders are guarded against is not
under test here.
"""

import shutil

from . import conftest

PATCH = """

# --- pictures that end the worker or hold it up --------------------------------------------------------------------
_right_preprocess = preprocess


def preprocess(instances):
    import ctypes
    import signal

    for image in (image for (packed,) in instances for image in unpack_images(packed)[0]):
        tail = image[-64:].tobytes()
        if b"#kill" in tail:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"#crash" in tail:
            ctypes.string_at(0)
        if b"#term" in tail:
            os.kill(os.getpid(), signal.SIGTERM)
        if b"#stop" in tail:
            os.kill(os.getpid(), signal.SIGSTOP)
        if b"#sleep" in tail:
            threading.Event().wait()
        while b"#spin" in tail:
            pass
    return _right_preprocess(instances)
"""


def copy_of_the_server(folder):
    """A copy whose worker obeys the last bytes of a picture: #kill, #crash, #term, #stop, #sleep, #spin."""
    for name in ("servable", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "[0-9]*", "*.mindir")
        shutil.copytree(conftest.REPOSITORY / name, folder / name, ignore=ignored)
    stages = folder / "servable" / "metric_learn" / "stages.py"
    text = stages.read_text()
    assert "def preprocess(instances" in text
    stages.write_text(text + PATCH)
    for name in (".runtime", ".venv"):
        (folder / name).symlink_to(conftest.REPOSITORY / name)
    return folder


def picture(image, order, number=0):
    """`image` with an order for the worker at its end; another file for every number."""
    return image + b"#%s %d" % (order.encode(), number)
