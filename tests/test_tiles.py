from __future__ import annotations

import pytest

from landscape.execution.tiles import Tile, Tiles


def tiles_of(number: int, num_workers: int = 2) -> Tiles:
    return Tiles([(f"point/{n}", n) for n in range(number)], num_workers)


def cut(tiles: Tiles, seconds_a_piece: float) -> list[int]:
    """Sizes of all tasks, when each ends before the next is handed out."""
    sizes = []
    while tile := tiles.take(alone=True):
        sizes.append(len(tile.pieces))
        tiles.measure(tile, seconds_a_piece * len(tile.pieces))
    return sizes


def test_tasks_grow_to_half_a_second_and_are_shared_at_the_end():
    sizes = cut(tiles_of(1000), 0.01)
    assert sizes[:4] == [1, 4, 16, 50]  # four times the last, until 0.5 s are reached
    assert max(sizes) == 50
    assert sum(sizes) == 1000
    assert all(size >= 30 for size in sizes[3:-1])  # 0.3 s


def test_a_slow_piece_is_a_task_of_its_own():
    assert cut(tiles_of(5), 60.0) == [1] * 5


def test_pieces_too_fast_to_measure_are_no_division_by_zero():
    assert cut(tiles_of(100), 0.0)[:3] == [1, 4, 16]


def test_nothing_is_handed_out_twice_or_left():
    tiles, seen = tiles_of(500, num_workers=3), []
    while tile := tiles.take(alone=True):
        seen += [item for _, item in tile.pieces]
        tiles.measure(tile, 0.02)
    assert seen == list(range(500))


def test_a_lost_task_is_handed_out_three_times_and_then_piece_by_piece_alone():
    tiles = tiles_of(12)
    tiles.measure(tiles.take(alone=True), 0.01)
    lost = tiles.take(alone=False)
    assert len(lost.pieces) == 4
    for deaths in (1, 2):
        tiles.put_back(lost, 1)
        assert tiles.take(alone=False) is lost
        assert lost.deaths == deaths
    tiles.put_back(lost, 1)
    while tile := tiles.take(alone=False):
        assert not tile.is_suspect
        tiles.measure(tile, 0.01)
    alone = [tiles.take(alone=True) for _ in range(4)]
    assert [tile.pieces for tile in alone] == [[piece] for piece in lost.pieces]
    tiles.put_back(alone[2], 1)
    assert tiles.given_up == [lost.pieces[2][0]]
    assert tiles.take(alone=True) is None


def test_a_task_that_only_lacked_its_parcel_is_no_suspect():
    tiles = tiles_of(1)
    for _ in range(10):
        tile = tiles.take(alone=True)
        tiles.put_back(tile)
    assert tile == Tile([("point/0", 0)])
    assert tiles.given_up == []


def test_workers_that_die_over_everything_are_an_error_of_their_own():
    tiles = tiles_of(100, num_workers=2)
    with pytest.raises(RuntimeError, match="10 workers died and none has finished a task"):
        while tile := tiles.take(alone=True):
            tiles.put_back(tile, 1)
