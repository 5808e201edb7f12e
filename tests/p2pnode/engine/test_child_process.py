"""A child process and its log."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from p2pnode.engine import child_reaper


def test_a_log_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    with closing(child_reaper.BoundedLog(tmp_path / "log", 100)) as log:
        for number in range(50):
            log.write(b"%09d\n" % number)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 100
    assert (tmp_path / "log").read_bytes().endswith(b"000000049\n")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
