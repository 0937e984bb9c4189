import gc
import threading

import numpy as np
import pytest
import torch

from lightning_melanoma.data.buffers import BatchBuffers


def test_memory_is_used_again_when_the_tensor_made_of_it_is_gone():
    buffers = BatchBuffers((2, 3), num_kept=1)
    first, second = torch.from_numpy(buffers.take()), torch.from_numpy(buffers.take())
    place = first.data_ptr()
    assert second.data_ptr() != place
    del first
    gc.collect()
    assert torch.from_numpy(buffers.take()).data_ptr() == place


@pytest.mark.parametrize(
    "view",
    [
        lambda lent: torch.from_numpy(lent).permute(1, 0)[0],
        lambda lent: torch.from_numpy(lent.transpose(1, 0))[0],
        lambda lent: torch.from_numpy(lent).numpy()[:, 0],
        lambda lent: lent.transpose(1, 0)[:1][0],
    ],
)
def test_memory_stays_taken_while_any_view_of_it_lives(view):
    buffers = BatchBuffers((2, 3), num_kept=1)
    row = view(buffers.take())
    row[:] = 7
    for _ in range(3):
        buffers.take()[...] = 0
    assert row.tolist() == [7, 7]


def test_no_more_memory_is_kept_than_agreed():
    buffers = BatchBuffers((2, 3), num_kept=2)
    lent = [buffers.take() for _ in range(5)]
    lent.clear()
    assert len(buffers._idle) == 2


def test_a_batch_that_is_freed_amid_a_take_comes_back():
    buffers = BatchBuffers((1, 2, 2, 3), num_kept=2)

    class Freed(list):
        """The collector may run anywhere, and free a batch that was in a cycle."""

        def pop(self):
            buffers._take_back(np.empty((1, 2, 2, 3), np.uint8).data)
            return super().pop()

    buffers._idle = Freed()
    taking = threading.Thread(target=buffers.take, daemon=True)
    taking.start()
    # A thread that waits for itself would never end.
    taking.join(timeout=60)
    assert not taking.is_alive()
