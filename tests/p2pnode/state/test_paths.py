"""Where things live."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from p2pnode.state.paths import find_paths


def test_the_flag_wins_over_the_environment_over_the_platform(tmp_path: Path) -> None:
    environ = {"P2PNODE_HOME": str(tmp_path / "b")}
    assert find_paths(tmp_path / "a", environ).home == tmp_path / "a"
    assert find_paths(None, environ).home == tmp_path / "b"
    assert find_paths("", environ).home == tmp_path / "b"
    assert find_paths(None, {}).home == platformdirs.user_data_path("p2pnode", appauthor=False)


def test_a_home_is_absolute() -> None:
    assert find_paths("~/x", {}).home == Path.home() / "x"
    assert find_paths("x", {}).home == Path.cwd() / "x"


def test_the_files_have_the_names_of_the_interface(tmp_path: Path) -> None:
    paths = find_paths(tmp_path, {})
    found = [paths.config, paths.node_key, paths.api_key, paths.database, paths.logs, paths.daemon, paths.lock]
    names = ["config.toml", "node.key", "api-key", "node.db", "logs", "daemon.json", "lock"]
    assert found == [tmp_path / name for name in names]
