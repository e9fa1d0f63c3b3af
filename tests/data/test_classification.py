import numpy as np
import pytest

from lib.data import world
from lib.data.classification import classification_images
from lib.settings import ROOT, Data


def test_the_embedded_world_comes_as_8_bit_channels_first_images():
    images = classification_images(Data(name="world", side=48, count=7))
    scenes = world.load(ROOT / "data" / "world", "test")
    assert images.images.shape == (7, 3, 48, 48) and images.ids == scenes.ids[:7]
    assert np.array_equal(images.images[3].permute(1, 2, 0).numpy(), scenes.images[3])
    assert images.labels.tolist() == scenes.labels[:7].tolist()


def test_a_count_overrides_the_scale_s():
    assert len(classification_images(Data(name="world", side=48, count=7), 3)) == 3


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"9999 images asked for, but the embedded world has \d+ test scenes"):
        classification_images(Data(name="world", side=48), 9999)


def test_the_embedded_world_has_one_size():
    with pytest.raises(ValueError, match="48 x 48 pixels, not 64"):
        classification_images(Data(name="world", side=64))
