# SPDX-License-Identifier: Apache-2.0
"""Image tokens: pooled by blocks; cameras that the robot lacks are black and masked wherever pictures come from."""

import numpy as np
import torch
from tiny_sigma import tiny_backbone

from sigma_ros.model.tokens import CameraMapping, camera_patches, pool_tokens


def test_pooling_averages_square_blocks_of_the_image():
    grid = torch.arange(64.0).reshape(1, 8, 8, 1)
    pooled = pool_tokens(grid.reshape(1, 64, 1), 4).reshape(4, 4)
    torch.testing.assert_close(pooled[1, 2], grid[0, 2:4, 4:6, 0].mean())


def test_a_camera_that_the_robot_lacks_is_black_and_the_others_keep_the_policys_order():
    mapping = CameraMapping(cameras=("side", None, "up"), own=("up", "side"))
    frames = np.stack([np.full((4, 2, 2, 3), value, dtype=np.uint8) for value in (10, 20)], axis=1)
    assert mapping.images(frames)[3, :, 0, 0, 0].tolist() == [20, 0, 10]
    assert mapping.mask(2).tolist() == [[True, False, True]] * 2


def test_tokens_of_several_ticks_are_those_of_each_and_zeros_where_no_camera_is():
    backbone = tiny_backbone()
    size, generator = backbone.image_size_px, np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (3, 2, size, size, 3), dtype=np.uint8))
    seen = torch.tensor([[True, False], [True, True], [False, False]])
    patches = camera_patches(backbone, images, seen)
    assert torch.equal(patches[1, 1], backbone.encode_images(images[1, 1:])[0])
    assert patches[seen].abs().amax(dim=(1, 2)).min() > 0
    assert not patches[~seen].any()
