"""The processes that a crawl has started, and whether they still run."""

from __future__ import annotations

from pathlib import Path


def descendants(process_id: int) -> dict[int, str]:
    """Return the child processes of a process, and their children, with their names."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if (status := _status(int(folder.name))) is not None:
            parents[int(folder.name)] = (status[2], status[0])
    found: dict[int, str] = {}
    known = {process_id}
    while new := {child for child, (parent, _) in parents.items() if parent in known and child not in known}:
        known |= new
        found |= {child: parents[child][1] for child in new}
    return found


def is_alive(process_id: int) -> bool:
    """Return whether a process runs; an ended one may still be in the list of processes."""
    status = _status(process_id)
    return status is not None and status[1] not in "ZX"


def _status(process_id: int) -> tuple[str, str, int] | None:
    """Return name, state and parent; None where there is no such process."""
    try:
        text = (Path("/proc") / str(process_id) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name is in parentheses, and may have some.
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, *_ = rest.split()
    return name, state, int(parent)
