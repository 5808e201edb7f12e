"""The columns of the peer view: a load fills a run of them, and a peer of which nothing is known may be asked first."""

from __future__ import annotations

import numpy as np

from protocol.membership.columns import Columns
from protocol.membership.peer_columns import OF_A_LOAD, PEER_COLUMNS


def test_the_figures_of_a_load_are_one_write() -> None:
    columns = Columns(PEER_COLUMNS)
    packer, names = columns.packer(*OF_A_LOAD), set(OF_A_LOAD)
    buffer, start = columns.at(3, columns.offset(OF_A_LOAD[0]))
    packer.pack_into(buffer, start, *range(len(OF_A_LOAD)))
    assert [columns[name][3] for name in OF_A_LOAD] == list(range(len(OF_A_LOAD)))
    for name, (_, first) in PEER_COLUMNS.items():
        if name not in names:
            assert np.array_equal(columns[name][3], first, equal_nan=True)
