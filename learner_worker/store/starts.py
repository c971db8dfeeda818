"""The recent starts of a folder's worker: how often it has failed lately."""

from contextlib import suppress
from pathlib import Path

_NAME = "starts"
_RECENT_SECONDS = 600.0  # a worker that has run for longer is not taken for one that cannot run


def note_start(state_dir: Path, now: float) -> int:
    """Notes a start; returns how many of the recent starts before it did not end well.

    Args:
        now: Unix time in seconds.
    """
    recent = [at for at in _read(state_dir) if now - _RECENT_SECONDS < at <= now]
    with suppress(OSError):  # a full disk has an error of its own
        (state_dir / _NAME).write_text("".join(f"{at!r}\n" for at in [*recent, now]), encoding="ascii")
    return len(recent)


def forget_starts(state_dir: Path) -> None:
    """Notes that the worker has ended well."""
    (state_dir / _NAME).unlink(missing_ok=True)


def _read(state_dir: Path) -> list[float]:
    try:
        return [float(line) for line in (state_dir / _NAME).read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):  # none yet, or cut off by a full disk
        return []
