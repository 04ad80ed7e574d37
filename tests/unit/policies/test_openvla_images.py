"""openvla_oft's pictures against TensorFlow's, of which tests/golden/openvla_images.npz holds every 7th pixel.

Made with TensorFlow 2.21 by the functions of the original's experiments/robot/openvla_utils.py on pictures 5000 and
5001 of the recipe: `jpeg` after encode_jpeg and decode_image, `resized` after resize_image_for_policy, `cropped` after
center_crop_image of that.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.policies.openvla_oft import images
from acceerl.policies.openvla_oft.jpeg import through_jpeg
from tests.unit.policies import openvla_recipe as recipe

CASES = [(size, i) for size in (256, 128, 224) for i in (0, 1)]


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[2] / "golden" / "openvla_images.npz")


def picture(size, i):
    return torch.from_numpy(recipe.picture(5000 + i, size))[None]


def planes(size, i):
    return picture(size, i).permute(0, 3, 1, 2)


def pixels(found):
    return found[0].permute(1, 2, 0).contiguous().numpy()


def assert_nearly(found, golden):
    """TensorFlow adds in another order: one grey level in a few of 150,528 numbers."""
    difference = np.abs(pixels(found)[::7, ::7].astype(int) - golden)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize(("size", "i"), CASES)
def test_jpeg_is_tensorflows_bit_by_bit(golden, size, i):
    found = pixels(through_jpeg(planes(size, i)))
    assert np.array_equal(found[::7, ::7], golden[f"jpeg_{size}_{i}"])
    assert hashlib.sha256(found.tobytes()).hexdigest() == str(golden[f"jpeg_{size}_{i}_sha256"])


@pytest.mark.parametrize(("size", "i"), CASES)
def test_resize_and_crop_are_tensorflows(golden, size, i):
    assert_nearly(images.prepare(picture(size, i), crop=False), golden[f"resized_{size}_{i}"])
    assert_nearly(images.prepare(picture(size, i)), golden[f"cropped_{size}_{i}"])


def test_jpeg_hardly_changes_a_smooth_picture_of_any_size():
    ramp = torch.arange(50).repeat(37, 1).mul(4).to(torch.uint8).expand(1, 3, -1, -1)
    found = through_jpeg(ramp)
    assert found.shape == ramp.shape
    assert (found.int() - ramp.int()).abs().max() <= 4


def test_a_batch_is_its_pictures_one_by_one():
    both = torch.cat([picture(128, 0), picture(128, 1)])
    assert torch.equal(images.prepare(both), torch.cat([images.prepare(picture(128, i)) for i in (0, 1)]))


def test_rotate_turns_by_180_degrees():
    frames = picture(224, 0)
    turned = images.prepare(frames, crop=False, rotate=True)
    assert torch.equal(turned, images.prepare(frames, crop=False).flip(2, 3))


def test_each_tower_gets_its_own_scale():
    found = images.normalise(planes(224, 0), recipe.MEANS, recipe.STDS)
    assert found.shape == (1, 6, 224, 224)
    unit = planes(224, 0)[0].double() / 255
    for k in range(6):
        mean, std = recipe.MEANS[k // 3][k % 3], recipe.STDS[k // 3][k % 3]
        assert torch.allclose(found[0, k].double(), (unit[k % 3] - mean) / std, atol=1e-6)
