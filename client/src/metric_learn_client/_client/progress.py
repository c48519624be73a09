"""The progress bar of show_progress=True; tqdm is there with the extra [cli]."""

from __future__ import annotations

from typing import Any, Callable


class _Silent:
    def update(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


def progress_bar(total: int, show: bool) -> Any:
    """Something with update(count) and close(). Raises ImportError where a bar is asked for and tqdm is not there."""
    if not show:
        return _Silent()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("show_progress=True needs tqdm: pip install 'metric-learn-client[cli]'") from error
    bar: Callable[..., Any] = tqdm
    return bar(total=total, unit="img")
