import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask

from lib.data import world
from lib.data.detection import coco_format, load_coco
from lib.experiment.evaluation import check_classes
from lib.tasks.precision import Detections, evaluate_boxes

POLYGON = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
RUNS = {"counts": [20, 10, 570], "size": [20, 30]}


@pytest.fixture
def coco(tmp_path):
    """Three images of COCO's layout, not in order of their ids; the second by id is grey, the third has no object."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (
        ("000000000139.jpg", (20, 30, 3)),
        ("000000000285.jpg", (16, 12)),
        ("000000000632.jpg", (8, 8)),
    ):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / "val2017" / name)
    content = {
        "info": {"year": 2017},
        "images": [
            {"id": 632, "file_name": "000000000632.jpg", "width": 8, "height": 8},
            {"id": 139, "file_name": "000000000139.jpg", "width": 30, "height": 20},
            {"id": 285, "file_name": "000000000285.jpg", "width": 12, "height": 16},
        ],
        "annotations": [
            annotation(1, 285, 90, POLYGON, iscrowd=0),
            annotation(2, 139, 1, POLYGON, iscrowd=0),
            annotation(3, 139, 1, RUNS, iscrowd=1),
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }
    write(root, content)
    return root


def annotation(number, image, category, segmentation, iscrowd):
    return {"id": number, "image_id": image, "category_id": category, "bbox": [1, 1, 8, 8], "area": 32.0,
            "iscrowd": iscrowd, "segmentation": segmentation}  # fmt: skip


def listing(root):
    return root / "annotations" / "instances_val2017.json"


def write(root, content):
    listing(root).write_text(json.dumps(content))


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


# --- COCO


def test_images_come_in_the_order_of_their_ids_at_their_own_size(coco):
    data = load_coco(coco)
    assert data.image_ids == [139, 285, 632] and len(data) == 3
    assert data.ids == ["000000000139", "000000000285", "000000000632"]
    assert [tuple(image.shape) for image in data.images] == [(3, 20, 30), (3, 16, 12), (3, 8, 8)]
    for name, image in zip(data.ids, data.images, strict=True):
        assert image.dtype == torch.uint8 and torch.equal(image, pixels(coco / "val2017" / f"{name}.jpg"))


def test_masks_and_crowds_are_kept(coco):
    annotations = load_coco(coco).truth["annotations"]
    assert [(a["id"], a["iscrowd"], a["segmentation"]) for a in annotations] == [
        (1, 0, POLYGON),
        (2, 0, POLYGON),
        (3, 1, RUNS),
    ]


def test_count_takes_the_first_images_and_their_truth_only(coco):
    data = load_coco(coco, count=1)
    assert data.image_ids == [139] and len(data.images) == 1
    assert [entry["id"] for entry in data.truth["images"]] == [139]
    assert [a["id"] for a in data.truth["annotations"]] == [2, 3]
    assert len(data.truth["categories"]) == 2


def test_a_list_of_ids_says_which_images_and_in_which_order(coco):
    data = load_coco(coco, ids=["000000000632", "000000000139"])
    assert data.image_ids == [632, 139] and {each["image_id"] for each in data.truth["annotations"]} == {139}
    with pytest.raises(ValueError, match=r"val2017\.json has no image '139' \(1 of the 1 images"):
        load_coco(coco, ids=["139"])


def test_more_images_than_there_are_is_an_error(coco):
    with pytest.raises(ValueError, match=r"^4 images asked for, but .*instances_val2017\.json lists 3$"):
        load_coco(coco, count=4)


def test_a_missing_file_is_named_with_the_command_that_gets_it(coco):
    (coco / "val2017" / "000000000285.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"285\.jpg: no such image; companion data says if its set is complete$"
    ):
        load_coco(coco)
    assert len(load_coco(coco, count=1)) == 1
    listing(coco).unlink()
    with pytest.raises(FileNotFoundError, match=r"val2017\.json: no such file; get it with: companion data coco$"):
        load_coco(coco)


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\x00"])
def test_damaged_annotations_are_named_in_one_line(coco, content):
    listing(coco).write_bytes(content)
    message = r"instances_val2017\.json: corrupt annotations \(.*companion data coco$"
    with pytest.raises(ValueError, match=message) as error:
        load_coco(coco)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[], {"images": [], "annotations": []}])
def test_annotations_of_another_kind_are_refused(coco, content):
    write(coco, content)
    with pytest.raises(ValueError, match=r"holds no '(images|categories)', so it is no file of COCO's"):
        load_coco(coco)


def test_an_image_of_another_size_than_annotated_is_refused(coco):
    Image.new("RGB", (12, 17)).save(coco / "val2017" / "000000000285.jpg")
    with pytest.raises(ValueError, match=r"000000000285\.jpg: is 12x17, but annotated as 12x16$"):
        load_coco(coco)


def change(coco, **changes):
    """The annotations with other keys of each entry; None takes one away."""
    content = json.loads(listing(coco).read_text())
    for section, (key, value) in changes.items():
        for entry in content[section]:
            entry.pop(key) if value is None else entry.update({key: value})
    write(coco, content)


@pytest.mark.parametrize("key, found", [("iscrowd", 0), ("area", 64.0), ("id", 1), ("segmentation", None)])
def test_what_other_tools_leave_out_of_annotations_is_filled_in(coco, key, found):
    change(coco, annotations=(key, None))
    data = load_coco(coco)
    assert data.truth["annotations"][0].get(key) == found
    one = Detections(np.array([[1, 1, 9, 9]], np.float32), np.array([0.9], np.float32), np.array([90]))
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    # The toothbrush is found, the person not; without iscrowd the crowd is a person too.
    assert evaluate_boxes(data.truth, data.image_ids, [none, one, none]).ap() == pytest.approx(50)


def test_polygons_of_two_points_enclose_nothing(coco):
    change(coco, annotations=("segmentation", [[1, 1, 9, 9], *POLYGON]))
    assert all(one["segmentation"] == POLYGON for one in load_coco(coco).truth["annotations"])


def test_images_need_neither_sizes_nor_objects_and_categories_no_names(coco):
    change(coco, images=("width", None), categories=("name", None))
    data = load_coco(coco)
    assert [category["name"] for category in data.truth["categories"]] == ["1", "90"]
    content = json.loads(listing(coco).read_text())
    write(coco, content | {"annotations": []})
    data = load_coco(coco)
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no object to find in these images"):
        evaluate_boxes(data.truth, data.image_ids, [none] * 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"annotations": ("bbox", [1, 2, 3])}, r"annotation 1: the box \[1, 2, 3\] is not x, y, width, height"),
        ({"annotations": ("bbox", [1, 2, -3, 4])}, "annotation 1: the box"),
        ({"annotations": ("bbox", None)}, "an entry is not as COCO's are: 'bbox'"),
        ({"annotations": ("category_id", 7)}, "annotation 1: category 7 is not among the categories"),
        ({"annotations": ("image_id", "139")}, "annotation 1: of image_id '139' and the images' id one is text"),
        ({"annotations": ("image_id", None)}, "an entry is not as COCO's are: 'image_id'"),
        ({"annotations": ("iscrowd", "0")}, "annotation 1: area must be a number and iscrowd 0 or 1"),
        ({"annotations": ("area", "12")}, "annotation 1: area must be a number and iscrowd 0 or 1"),
        ({"images": ("id", 5)}, "image id 5 is listed 3 times"),
        ({"images": ("file_name", None)}, "an entry is not as COCO's are: 'file_name'"),
        ({"categories": ("id", None)}, "an entry is not as COCO's are: 'id'"),
    ],
)
def test_annotations_that_are_wrong_are_named_in_one_line(coco, changes, message):
    change(coco, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_coco(coco)
    assert "\n" not in str(error.value) and "delete" not in str(error.value)


def test_a_list_without_images_is_one_line(coco):
    write(coco, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(ValueError, match=r"val2017\.json: lists no images$"):
        load_coco(coco)


def test_a_category_that_the_detector_does_not_know_is_refused(coco):
    known = SimpleNamespace(task="detection", classes=89, background=False)
    study = SimpleNamespace(images=load_coco(coco), scale=SimpleNamespace(networks={"Net": known}))
    with pytest.raises(ValueError, match="category 90 of the images is unknown to Net, which has 89"):
        check_classes(study, "Net")
    known.classes = 90
    check_classes(study, "Net")


# --- the embedded data set


@pytest.fixture(scope="module")
def scenes():
    return world.load_scenes("test", count=30)


def test_a_world_has_its_scenes_and_classes(scenes):
    data = coco_format(scenes)
    assert data.ids == scenes.ids and data.image_ids == list(range(1, 31))
    assert [category["name"] for category in data.truth["categories"]] == list(world.CLASSES)
    assert [category["id"] for category in data.truth["categories"]] == list(range(1, 13))
    assert torch.equal(torch.stack(data.images), scenes.images) and len(data) == 30


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_every_object_has_its_class_box_and_visible_pixels(scenes):
    """Boxes and masks say the same: the box around a mask is the object's box."""
    data = coco_format(scenes)
    annotations = iter(data.truth["annotations"])
    for scene, image_id in enumerate(data.image_ids):
        for k, (x0, y0, x1, y1) in enumerate(scenes.boxes[scene].tolist()):
            thing = next(annotations)
            inside = mask.decode(thing["segmentation"])
            assert np.array_equal(inside, scenes.instances[scene] == k + 1)
            assert thing["image_id"] == image_id and thing["category_id"] == scenes.objects[scene][k] + 1
            assert thing["bbox"] == [x0, y0, x1 - x0, y1 - y0] == mask.toBbox(thing["segmentation"]).tolist()
            assert thing["area"] == inside.sum() > 0 and thing["iscrowd"] == 0
    assert next(annotations, None) is None
    assert [a["id"] for a in data.truth["annotations"]] == list(range(1, len(data.truth["annotations"]) + 1))


def test_a_world_s_truth_is_plain_json(scenes):
    truth = coco_format(scenes).truth
    assert json.loads(json.dumps(truth)) == truth
