# SPDX-License-Identifier: Apache-2.0
"""Pictures travel as places in common memory, and a place is free again when nobody looks at it any more."""

import gc
import os
from multiprocessing import Pipe

import numpy as np
import pytest

from sigma_ros.policy import wire
from sigma_ros.policy.wire import Call, PictureMemory, Wire

SIZE_PX = 8


@pytest.fixture
def memory(monkeypatch) -> PictureMemory:
    monkeypatch.setattr(wire, "PLACES", 4)
    return PictureMemory(SIZE_PX)


def test_a_picture_is_written_once_and_seen_through_the_other_mapping(memory) -> None:
    theirs = PictureMemory(SIZE_PX, os.dup(memory.fd))
    picture = memory.square(SIZE_PX)
    place = memory.place_of(picture)
    assert place is not None
    seen = theirs.picture(place)
    picture[:] = 7
    assert (seen == 7).all()
    assert not seen.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1


def test_a_place_stays_taken_while_any_view_of_it_lives(memory) -> None:
    view = memory.square(SIZE_PX)[::2]
    assert memory.free == 3
    del view
    gc.collect()
    assert memory.free == 4


def test_a_place_that_is_used_again_is_black(memory) -> None:
    memory.square(SIZE_PX)[:] = 9
    gc.collect()
    assert not memory.square(SIZE_PX).any()


def test_where_no_place_is_free_the_picture_travels_as_a_copy(memory) -> None:
    held = [memory.square(SIZE_PX) for _ in range(6)]
    assert [memory.place_of(each) is None for each in held] == [False] * 4 + [True] * 2
    assert memory.place_of(np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8)) is None
    assert memory.place_of(held[0][::2]) is None
    assert memory.square(SIZE_PX + 1).shape == (SIZE_PX + 1, SIZE_PX + 1, 3)


def test_a_message_names_what_does_not_travel(memory) -> None:
    near, far = Pipe()
    theirs = PictureMemory(SIZE_PX, os.dup(memory.fd))

    def name(obj: object) -> int | None:
        return memory.place_of(obj) if isinstance(obj, np.ndarray) else None

    picture = memory.square(SIZE_PX)
    picture[:] = 5
    other = np.arange(6.0)
    Wire(near, name=name, find=theirs.picture).send(Call("check_units", (picture, other), {"a": 1}))
    size = len(far.recv_bytes())
    Wire(near, name=name, find=theirs.picture).send(Call("check_units", (picture, other), {"a": 1}))
    call = Wire(far, name=name, find=theirs.picture).receive()
    assert np.array_equal(call.arguments[0], picture)
    assert np.array_equal(call.arguments[1], other)
    assert size < 600, "the picture alone has 192 bytes, and those of a camera 150000"
