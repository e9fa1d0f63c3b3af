import pytest
import torch

from lib import settings
from lib.data import sets, world
from lib.data.sets import load_set
from lib.experiment.study import open_study
from lib.settings import Data


def test_the_embedded_world_comes_as_8_bit_channels_first_images():
    images = load_set(Data(name="world", side=48, count=7))
    scenes = world.load_scenes("test")
    assert images.images.shape == (7, 3, 48, 48) and images.ids == scenes.ids[:7]
    assert torch.equal(images.images[3], scenes.images[3])
    assert images.labels.tolist() == scenes.labels[:7].tolist()


def test_a_count_overrides_the_scale_s():
    assert len(load_set(Data(name="world", side=48, count=7), count=3)) == 3


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"9999 images asked for, but the embedded data set has \d+ test scenes"):
        load_set(Data(name="world", side=48), count=9999)


def test_the_embedded_world_has_one_size():
    with pytest.raises(ValueError, match="48 x 48 pixels, not 64"):
        load_set(Data(name="world", side=64))


def test_a_list_of_images_is_there_and_names_each_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "ROOT", tmp_path)
    (tmp_path / "list.txt").write_text("a 00ff\n\nb\n")
    assert sets.read_ids("list.txt") == {"a": ["00ff"], "b": []} and sets.read_ids(None) is None
    (tmp_path / "list.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"^list\.txt: names an image twice$"):
        sets.read_ids("list.txt")
    with pytest.raises(FileNotFoundError, match=r"^none\.txt: no such list of images$"):
        load_set(Data(name="neurips2017", side=48, ids="none.txt"))


def test_the_embedded_data_set_takes_no_list():
    with pytest.raises(ValueError, match=r"taken in its own order, not by a list \(scales/lists/coco_sample\.txt\)$"):
        load_set(Data(name="world", side=48, ids="scales/lists/coco_sample.txt"))


def test_validation_and_test_scenes_are_other_scenes_and_only_split_sets_have_both():
    source = Data(name="world", side=48)
    val, test = (load_set(source, split) for split in ("val", "test"))
    assert not {image.numpy().tobytes() for image in val.images} & {image.numpy().tobytes() for image in test.images}
    with pytest.raises(ValueError, match=r"^neurips2017 has no val images of its own"):
        load_set(Data(name="neurips2017", side=299), "val")


def test_the_scale_of_the_choices_is_mini_on_the_validation_scenes():
    mini, validation = settings.load("mini"), settings.load("validation")
    assert (mini.split, validation.split) == ("test", "val")
    assert validation.b == mini.b and validation.networks["NRP"].weights == "models/mini/NRP.safetensors"
    assert open_study("validation", count=1).images.ids == ["val-00000"]
