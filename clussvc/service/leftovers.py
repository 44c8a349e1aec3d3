"""Which monitors of an earlier life of the service can have left something running on this machine.

A file in a monitor's folder names the boot of the kernel under which it was started last. It is removed when the
monitor has nothing any more and is to end. So a service that finds the present boot in such a file follows a life that
ended in another way; after a reboot of the machine nothing can be left.
"""

from __future__ import annotations

from pathlib import Path

_KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FOLDER_OF_DEFAULT = "default"


def monitor_folder(run_folder: Path, monitor: str) -> Path:
    """Where a monitor keeps what belongs to it; the default monitor has an empty name."""
    return run_folder / (monitor or _FOLDER_OF_DEFAULT)


def monitors_with_leftovers(run_folder: Path) -> tuple[str, ...]:
    """The names of the monitors of which something may still run; in doubt, one is among them."""
    boot = _kernel_boot()
    if not run_folder.exists():
        return ()
    names = sorted(folder.name for folder in run_folder.iterdir() if _occupied(folder, boot))
    return tuple("" if name == _FOLDER_OF_DEFAULT else name for name in names)


def note_occupied(run_folder: Path, monitor: str) -> None:
    """The monitor will be started now. Raises OSError."""
    folder = monitor_folder(run_folder, monitor)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    boot = _kernel_boot()
    if _occupied(folder, boot):
        return
    fresh = folder / "occupied.new"
    fresh.write_text(boot)
    # A service that dies here must not leave a file that says nothing.
    fresh.replace(_marker(folder))


def note_empty(run_folder: Path, monitor: str) -> None:
    """The monitor has terminated everything and is not commanded any more."""
    _marker(monitor_folder(run_folder, monitor)).unlink(missing_ok=True)


def _occupied(folder: Path, boot: str) -> bool:
    try:
        return _marker(folder).read_text() == boot
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True


def _marker(folder: Path) -> Path:
    return folder / "occupied"


def _kernel_boot() -> str:
    return _KERNEL_BOOT.read_text().strip()
