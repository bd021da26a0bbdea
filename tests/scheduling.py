"""Which tests one worker of pytest-xdist runs as a whole."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

WHOLE_FOLDERS = ("tests/vllm/",)  # all its files ask the same two servers


class ByFile(LoadScopeScheduling):
    """A file at a time, whose servers and fitted bundles are shared; a folder of `WHOLE_FOLDERS` at a time.

    Not xdist's `loadgroup`: it changes a private field of pytest's items that pytest 9.2 no longer has.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in WHOLE_FOLDERS if file.startswith(folder)), file)
