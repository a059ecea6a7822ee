"""The journal of an endpoint: every response is appended durably as it comes, so that nothing is paid for twice.

A journal belongs to a model card, not to a result: requests are identified by their content, so that a study with a larger
limit, or another study with the same prompts, takes what is there. It stays when a result is finished or a job is killed.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from pipeline.core.io import read_complete_rows, read_jsonl
from pipeline.evaluate.endpoints.exchanges import Exchange, ExchangeId, identify_exchange
from pipeline.study.artifacts import STORE

# one file for each model card; no stage's folder
FOLDER = Path("results/responses")
# of a result: the folder of its requests and responses, a file for each task
RESPONSES = "responses"


def journal_path(name: str) -> Path:
    """Return the journal of a model card, relative to the project's root."""
    return FOLDER / f"{name}.jsonl"


class Journal:
    """An open journal, which this process alone writes; another one that opens it waits.

    Attributes:
        path: of its file.
        rows: the exchanges.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[ExchangeId, Exchange] = {}

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        # the endpoint's limits hold for one process
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that uses {self.path}", flush=True)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            self.rows, length = _read_rows(self.path)
            os.truncate(self._handle, length)
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def append(self, exchange: Exchange) -> None:
        """Write an exchange so that it survives a kill or a power cut; the caller lets one thread in at a time.

        Raises:
            OSError: it cannot be written, such as to a full disk; the file is as before.
        """
        line = (json.dumps(exchange, ensure_ascii=False) + "\n").encode()
        length = os.fstat(self._handle).st_size
        try:
            while line:
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        except OSError:
            # the next line would continue the torn one
            os.truncate(self._handle, length)
            raise
        self.rows[identify_exchange(exchange)] = exchange


def read_journal(path: Path) -> dict[ExchangeId, Exchange]:
    """Return the exchanges of a journal; empty if there is none.

    Raises:
        UserError: a line is invalid; it names the file and the line.
    """
    return _read_rows(path)[0] if path.is_file() else {}


def _read_rows(path: Path) -> tuple[dict[ExchangeId, Exchange], int]:
    rows, length = read_complete_rows(path)
    return {identify_exchange(row): row for row in rows}, length


def list_stored(siblings: Path) -> Iterator[Path]:
    """Return the files of responses of the finished answers of a model, those that are parked included."""
    for folder in (siblings, STORE / siblings):
        # hidden folders are unfinished work, whose responses are in the journal
        yield from sorted(folder.glob(f"[!.]*/{RESPONSES}/*.jsonl"))


def read_stored(files: Iterable[Path]) -> dict[ExchangeId, Exchange]:
    """Return the exchanges that finished results hold."""
    return {identify_exchange(row): row for file in files for row in read_jsonl(file)}
