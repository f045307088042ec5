"""Files of the real series as their authors published them: which there are, and a verified copy of each.

`_sources.csv` names files of one commit each. A copy is checked against its hash before it gets its name in the user's
cache, so what lies there is either the published file or not there at all.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import pooch

BASE_URL = "https://raw.githubusercontent.com"
CACHE = Path(pooch.os_cache("c2sti"))


@dataclass(frozen=True)
class Source:
    """A row of `_sources.csv`: one published file. Of some, only the git hash is known; the rest is empty."""

    repository: str
    commit: str
    path: str
    bytes: str
    git_blob_sha1: str
    sha256: str


@cache
def published() -> Mapping[str, Source]:
    """All published files, by their path in the repository."""
    table = resources.files("c2sti.datasets").joinpath("_sources.csv").read_text(encoding="utf-8")
    return {row["path"]: Source(**row) for row in csv.DictReader(table.splitlines())}


def fetch(path: str) -> Path:
    """Return the cached copy of a published file, downloading it where there is none or where it was altered."""
    source = published()[path]
    target = CACHE / source.repository / source.commit / path
    url = f"{BASE_URL}/{source.repository}/{source.commit}/"
    known = {path: f"sha256:{source.sha256}" if source.sha256 else None}

    def download(url: str, output: str, store: pooch.Pooch) -> None:
        pooch.HTTPDownloader(timeout=60)(url, output, store)
        verify(Path(output), source)  # pooch gives `output` its final name only after this

    if target.exists() and git_blob_sha1(target) != source.git_blob_sha1:
        target.unlink()  # pooch itself would keep an altered file whose sha256 is not known
    try:
        store = pooch.Pooch(CACHE / source.repository / source.commit, url, registry=known)
        return Path(store.fetch(path, downloader=download))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; of a wrong sha256 pooch makes a ValueError
        raise OSError(
            f"{path} could not be had from {url}{path}: {error}. Nothing of it was kept. Check the connection and call "
            f"again, or save that file as {target}."
        ) from error


def git_blob_sha1(file: Path) -> str:
    """Hash a file as git does: some sources are known by their commit only."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def verify(file: Path, source: Source) -> None:
    """Raise an OSError where a file is not the published one."""
    found = git_blob_sha1(file)
    if found != source.git_blob_sha1:
        size = f"{source.bytes} bytes, " if source.bytes else ""
        raise OSError(
            f"the download is corrupted or incomplete: expected {size}git blob {source.git_blob_sha1}, "
            f"found {file.stat().st_size} bytes, git blob {found}"
        )
