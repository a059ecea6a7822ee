"""What fetching reads of a dataset card, and the checks of what a source delivers."""

import hashlib
from typing import Literal, NamedTuple, TypedDict


class SourceUnavailable(Exception):
    """A source does not have the file or cannot be reached; the next source of the card may have it."""


class LocalSource(TypedDict):
    """A file below data_root."""

    kind: Literal["local"]
    path: str
    format: Literal["jsonl", "json", "csv"]
    sha256: str | None
    git_blob: str | None


class UrlSource(TypedDict):
    """A file on a web server."""

    kind: Literal["url"]
    url: str
    format: Literal["jsonl", "json", "csv"]
    sha256: str | None
    git_blob: str | None


class HubSource(TypedDict):
    """Files of a dataset repository on the Hugging Face hub."""

    kind: Literal["hub"]
    repo_id: str
    # None: the commit in the lock file, or the newest one at the first download
    revision: str | None
    files: list[str]
    # whether the rows are converted to the instruction format
    convert: bool
    # of the published file that the converted rows make up
    git_blob: str | None


class WorldSource(TypedDict):
    """Rows that are drawn from the small world (``pipeline.data.world``)."""

    kind: Literal["world"]
    task: str
    split: str
    n: int
    world_seed: int
    seed: int


class SplitCard(TypedDict):
    """One split of a dataset card (``pipeline.params.datasets.Split``) as plain values."""

    # number of rows, and sha256 of the raw file that ``fetch`` writes; None: not stated
    rows: int | None
    sha256: str | None
    # in order of preference
    sources: list[LocalSource | UrlSource | HubSource | WorldSource]
    # numbers of malformed rows, counted from 0, that are left out
    known_malformed: list[int]


class Checksums(NamedTuple):
    """The checksums that a card states of a source's file."""

    sha256: str | None = None
    git_blob: str | None = None


def checksum_mismatch(body: bytes, stated: Checksums) -> str | None:
    """Return a message with both values if a checksum of ``body`` differs from the stated one, else None."""
    if stated.sha256 and (actual := hashlib.sha256(body).hexdigest()) != stated.sha256:
        return f"sha256 is {actual}, but the card states {stated.sha256}"
    if stated.git_blob:
        # the id that git gives a file of this content
        actual = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        if actual != stated.git_blob:
            return f"git blob id is {actual}, but the card states {stated.git_blob}"
    return None
