"""Progress of a transfer in bytes: DVC's own counts files, of which an adapter may have a gigabyte."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import Callback

from pipeline.core.progress import progress_bar

if TYPE_CHECKING:
    from pipeline.core.progress import Bar


class _FileProgress(Callback):  # type: ignore[misc]
    """Advances a bar by the bytes of a file, at its end by those that were not reported."""

    def __init__(self, bar: "Bar", size: int) -> None:
        super().__init__(size=size)
        self.bar, self.remaining = bar, size

    def relative_update(self, inc: int = 1) -> None:
        """Count bytes, as a file system reports them; not all do."""
        step = min(inc, self.remaining)
        self.remaining -= step
        self.bar.update(step)

    def close(self) -> None:
        """Count the rest of the file."""
        self.relative_update(self.remaining)


class TransferProgress(Callback):  # type: ignore[misc]
    """The callback of a transfer of local files to a remote. It ignores counts of files, and follows the bytes of each."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label, self._stack = label, ExitStack()
        self.bar: Bar | None = None

    def show(self, total: int) -> None:
        """Open the bar, for so many bytes."""
        self.bar = self._stack.enter_context(progress_bar(total, label=self.label, unit="B", scaled=True))

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:
        """Return the callback of a file."""
        return _FileProgress(self.bar, Path(path_1).stat().st_size) if self.bar else Callback()

    def close(self) -> None:
        """Close the bar, if there is one."""
        self._stack.close()
