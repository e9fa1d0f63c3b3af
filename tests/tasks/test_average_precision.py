import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lib.data.detection import coco_format
from lib.tasks.precision import Detections, evaluate_boxes, mask_precision
from tests.training.conftest import scenes, truth

# --- scenes


def resampled(evaluation, samples, iou="0.5"):
    """Average precision of bootstrap samples of image indices."""
    size = len(evaluation.image_ids)
    return evaluation.resampled(np.stack([np.bincount(one, minlength=size) for one in np.atleast_2d(samples)]), iou)


def detections(*found):
    """Detections from (box, score, label), best first."""
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([s for _, s, _ in found], np.float32), np.array([k for *_, k in found], np.int64))


def truth_of(objects, images, classes):
    """COCO's format for objects (image, class, box x0 y0 x1 y1, is it a crowd?)."""
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": label,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": crowd,
        }
        for number, (image, label, (x0, y0, x1, y1), crowd) in enumerate(objects, 1)
    ]
    return {
        "images": [{"id": image, "width": 100, "height": 100} for image in images],
        "annotations": annotations,
        "categories": [{"id": label, "name": f"class {label}"} for label in classes],
    }


def random_scenes(seed=0, count=12, classes=4, ties=False):
    """Scenes with several objects, some crowds and one class that never occurs, and a detector that finds most.

    Scores are distinct, or, with `ties`, equal between images (never within one).
    """
    rng = np.random.default_rng(seed)
    objects, found = [], []
    images = (10 + 3 * np.arange(count)).tolist()
    for image in images:
        here = []
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.integers(0, 60, 2), rng.integers(10, 40, 2)
            box, label = [*corner.tolist(), *(corner + size).tolist()], int(rng.integers(1, classes))
            objects.append((image, label, box, int(rng.random() < 0.15)))
            for _ in range(rng.integers(0, 3)):
                wrong = rng.random() < 0.2
                here.append((np.array(box) + rng.normal(0, 3, 4), int(rng.integers(1, classes)) if wrong else label))
        for _ in range(rng.integers(0, 3)):
            corner = rng.uniform(0, 60, 2)
            here.append(([*corner, *(corner + 20)], int(rng.integers(1, classes))))
        scores = rng.permutation(20)[: len(here)] / 20 if ties else rng.permutation(1000)[: len(here)] / 1000
        order = np.argsort(-scores)
        found.append(detections(*[(here[k][0], scores[k], here[k][1]) for k in order]))
    return truth_of(objects, images, range(1, classes + 1)), images, found


def ap_by_pycocotools(folder, truth, images, found):
    """AP at 0.5:0.95 and at 0.5 in percent, as its manual says: from files, with all its default settings."""
    results = [
        {"image_id": image, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(score)}
        for image, one in zip(images, found, strict=True)
        for (x0, y0, x1, y1), score, label in zip(one.boxes.tolist(), one.scores, one.labels, strict=True)
    ]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return 100 * evaluator.stats[0], 100 * evaluator.stats[1]


# --- average precision


def hand_case():
    """Two images and two classes that occur; a third never does.

    Class 1 has 3 objects. By score: 0.9 finds the first, 0.8 lies beside all, 0.7 finds the second; the third stays
    unfound. Class 2 has 1 object, found with IoU 72/100 = 0.72.
    """
    objects = [
        (1, 1, (0, 0, 10, 10), 0),
        (2, 1, (0, 0, 10, 10), 0),
        (2, 1, (50, 50, 60, 60), 0),
        (2, 2, (20, 20, 30, 30), 0),
    ]
    found = [
        detections(((0, 0, 10, 10), 0.9, 1)),
        detections(((80, 80, 90, 90), 0.8, 1), ((0, 0, 10, 10), 0.7, 1), ((20, 20, 30, 27.2), 0.6, 2)),
    ]
    return truth_of(objects, (1, 2), (1, 2, 3)), [1, 2], found


def test_average_precision_of_a_case_done_by_hand():
    """Class 1: precision is 1/1 up to recall 1/3, then 2/3 up to recall 2/3, then 0. Of the 101 recalls 0, 0.01 ... 1,
    34 are at most 1/3 (0 to 0.33), 33 more at most 2/3 (0.34 to 0.66): AP = (34 * 1 + 33 * 2/3) / 101 = 56/101, at
    every IoU. Class 2: AP = 1 at the IoU thresholds 0.5, 0.55, 0.6, 0.65 and 0.7, and 0 at the other five."""
    result = evaluate_boxes(*hand_case())
    assert result.ap("0.5") == pytest.approx(100 * (56 / 101 + 1) / 2)
    assert result.ap("0.5:0.95") == pytest.approx(100 * (56 / 101 + 5 / 10) / 2)


def test_a_sample_of_a_case_done_by_hand():
    """The second image twice: class 1 has 4 objects. By score: two misses, two hits; precision 2/4 up to recall 2/4,
    which are 51 of the 101 recalls. Class 2 is as before, twice."""
    result = evaluate_boxes(*hand_case())
    assert resampled(result, [[1, 1]]) == pytest.approx(100 * (51 * 0.5 / 101 + 1) / 2)
    assert resampled(result, [[0, 0]]) == pytest.approx(100)  # the first image: all of class 1 found, no class 2


def test_finding_a_crowd_is_neither_hit_nor_miss():
    truth, images, found = hand_case()
    crowd = truth_of([(1, 1, (40, 40, 90, 90), 1)], (1, 2), (1, 2, 3))["annotations"][0]
    truth["annotations"].append(crowd | {"id": 9})
    in_crowd = [((45, 45, 55, 55), 0.99, 1), ((60, 60, 70, 70), 0.98, 1)]
    found[0] = detections(*in_crowd, ((0, 0, 10, 10), 0.9, 1))
    assert evaluate_boxes(truth, images, found).ap() == evaluate_boxes(*hand_case()).ap()
    assert resampled(evaluate_boxes(truth, images, found), [[1, 1]]) == resampled(
        evaluate_boxes(*hand_case()), [[1, 1]]
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_from_files(tmp_path, seed, ties):
    truth, images, found = random_scenes(seed, ties=ties)
    result = evaluate_boxes(truth, images, found)
    assert (result.ap("0.5:0.95"), result.ap("0.5")) == pytest.approx(
        ap_by_pycocotools(tmp_path, truth, images, found), abs=1e-9
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_bootstrap_sample_equals_evaluating_the_repeated_images_from_scratch(tmp_path, seed, ties):
    """The images drawn are written out as a data set of its own, and pycocotools evaluates it."""
    truth, images, found = random_scenes(seed, ties=ties)
    result = evaluate_boxes(truth, images, found)
    for sample in np.random.default_rng(seed).integers(len(images), size=(4, len(images))):
        repeated, names = truth_of([], range(1, len(images) + 1), range(1, 5)), []
        for name, k in enumerate(sorted(sample), 1):
            names.append(name)
            same = [a for a in truth["annotations"] if a["image_id"] == images[k]]
            repeated["annotations"] += [a | {"image_id": name} for a in same]
        repeated["annotations"] = [a | {"id": n} for n, a in enumerate(repeated["annotations"], 1)]
        whole, half = ap_by_pycocotools(tmp_path, repeated, names, [found[k] for k in sorted(sample)])
        assert resampled(result, sample, "0.5") == pytest.approx(half, abs=1e-9)
        assert resampled(result, sample, "0.5:0.95") == pytest.approx(whole, abs=1e-9)


def test_the_order_of_the_images_changes_nothing():
    truth, images, found = random_scenes()
    order = np.random.default_rng(0).permutation(len(images))
    result = evaluate_boxes(truth, images, found)
    other = evaluate_boxes(truth, [images[k] for k in order], [found[k] for k in order])
    sample = np.random.default_rng(1).integers(len(images), size=(5, len(images)))
    assert other.ap("0.5:0.95") == result.ap("0.5:0.95")
    assert resampled(other, sample) == pytest.approx(resampled(result, order[sample]))


def test_some_images_of_a_larger_truth_can_be_evaluated_alone():
    truth, images, found = random_scenes()
    fewer = {"annotations": [a for a in truth["annotations"] if a["image_id"] in images[3:9]]}
    assert (
        evaluate_boxes(truth, images[3:9], found[3:9]).ap()
        == evaluate_boxes(truth | fewer, images[3:9], found[3:9]).ap()
    )


def test_the_truth_stays_as_it_was_and_nothing_is_printed(capfd):
    truth, images, found = random_scenes()
    before = copy.deepcopy(truth)
    evaluate_boxes(truth, images, found)
    assert truth == before
    assert capfd.readouterr().out == ""


def test_annotation_number_0_counts_like_any_other():
    truth, images, found = hand_case()
    before = evaluate_boxes(truth, images, found).ap()
    truth["annotations"] = [a | {"id": number} for number, a in enumerate(truth["annotations"])]
    assert evaluate_boxes(truth, images, found).ap() == before


def test_finding_nothing_scores_0():
    truth, images, _ = hand_case()
    result = evaluate_boxes(truth, images, [detections()] * 2)
    assert result.ap("0.5") == result.ap("0.5:0.95") == 0
    assert resampled(result, [[0, 1], [1, 1]]).tolist() == [0, 0]


def test_what_cannot_be_evaluated_is_an_error():
    truth, images, found = hand_case()
    with pytest.raises(ValueError, match=r"^1 lists of detections for 2 different images$"):
        evaluate_boxes(truth, images, found[:1])
    with pytest.raises(ValueError, match=r"^2 lists of detections for 1 different images$"):
        evaluate_boxes(truth, [1, 1], found)
    with pytest.raises(ValueError, match=r"^no object to find in these images"):
        evaluate_boxes(truth | {"annotations": []}, images, found)


def test_a_sample_without_any_object_is_left_out():
    truth = truth_of([(1, 1, (0, 0, 10, 10), 0)], (1, 2), (1,))
    result = evaluate_boxes(truth, [1, 2], [detections(((0, 0, 10, 10), 0.9, 1)), detections()])
    assert np.isnan(result.resampled(np.array([[0, 2]]))).all()


def test_masks_as_they_are_have_full_precision_and_shifted_ones_less():
    known = coco_format(scenes(12))
    perfect = [
        {"labels": t["labels"], "scores": torch.ones(len(t["labels"])), "masks": t["masks"][:, None].float()}
        for t in truth(scenes(12))
    ]
    shifted = [found | {"masks": found["masks"].roll(8, 3)} for found in perfect]
    assert mask_precision(known.truth, known.image_ids, perfect) == pytest.approx(100)
    assert mask_precision(known.truth, known.image_ids, [*perfect[:6], *shifted[6:]]) < 80
    assert known.truth == coco_format(scenes(12)).truth  # left as it was
