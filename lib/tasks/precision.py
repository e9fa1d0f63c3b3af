"""COCO's average precision (pycocotools), also of bootstrap samples of images; without torch."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LIMIT = 100  # detections per image, COCO's
IOUS = {"0.5": slice(0, 1), "0.5:0.95": slice(0, 10)}  # positions among pycocotools' thresholds 0.5, 0.55 ... 0.95
RECALLS = np.linspace(0, 1, 101)  # where pycocotools reads precision; equals COCOeval's recThrs to the bit


class Detections(NamedTuple):
    """What a detector finds in one image, best first, at most 100."""

    boxes: np.ndarray  # float32 [n,4]: x0, y0, x1, y1 in that image's pixels
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int64 [n], the data set's category ids


class Matches(NamedTuple):
    """pycocotools' matches in one class, all images together, best detection first (T = 10 IoU thresholds)."""

    images: np.ndarray  # int64 [n], the image of each detection
    hits: np.ndarray  # bool [T,n], matched to an object
    counted: np.ndarray  # bool [T,n], false for those matched to a crowd, which count neither as hit nor as miss
    objects: np.ndarray  # int64 [N], objects to find per image


@dataclass(frozen=True)
class Evaluation:
    """How one detector does on one set of images.

    image_ids: the images, in the order that a bootstrap sample's indices mean.  precision: pycocotools' `[T,R,K]`, at
    10 IoU thresholds, 101 recalls, K classes, -1 for a class without objects.  matches: one entry per class with any.
    """

    image_ids: tuple[int, ...]
    precision: np.ndarray
    matches: tuple[Matches, ...]

    def ap(self, iou: str = "0.5") -> float:
        """Mean average precision in percent at IoU "0.5" or "0.5:0.95", as pycocotools gives it."""
        precision = self.precision[_thresholds(iou)]
        return 100 * float(precision[precision > -1].mean())

    def resampled(self, counts: np.ndarray, iou: str = "0.5") -> np.ndarray:
        """`ap` of bootstrap samples, `[B]`; NaN for a sample without any object.

        counts: how often each image is drawn, `[B,N]`. Equals pycocotools' accumulation over the repeated images to
        rounding, without matching again: a detection of an image drawn w times counts as w of the same score.
        """
        total, classes = np.zeros(len(counts)), np.zeros(len(counts))
        for matches in self.matches:
            objects = counts @ matches.objects
            total += np.where(objects > 0, _average_precision(matches, counts, objects, _thresholds(iou)), 0)
            classes += objects > 0
        return 100 * np.divide(total, classes, out=np.full(len(counts), np.nan), where=classes > 0)


def _thresholds(iou: str) -> slice:
    if iou not in IOUS:
        raise ValueError(f"no average precision at IoU '{iou}', only at {' and '.join(IOUS)}")
    return IOUS[iou]


def _average_precision(matches: Matches, weights: np.ndarray, objects: np.ndarray, ious: slice) -> np.ndarray:
    """Average precision of one class under image weights `[B,N]` with `objects` `[B]` to find, mean over IoUs, `[B]`.

    Precision at a recall is the best precision at that recall or beyond, which is always reached at a hit; so only
    hits are looked at, and each counts as often as recalls lie between the previous hit's and its own.
    """
    drawn = weights[:, matches.images]
    averages = []
    for hits, counted in zip(matches.hits[ious], matches.counted[ious], strict=True):
        found = np.cumsum(drawn[:, hits], 1)
        seen = np.cumsum(drawn * counted, 1)[:, hits]
        precision = found / (seen + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        reached = np.searchsorted(RECALLS, found / np.maximum(objects, 1)[:, None], side="right")
        averages.append((best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS))
    return np.mean(averages, 0)


def evaluate(truth: dict, image_ids: Sequence[int], detections: Sequence[Detections]) -> Evaluation:
    """COCO's box evaluation of the detections in the images `image_ids` of `truth` (see `DetectionSet`).

    At most 100 detections per image, objects of every size. ValueError unless there is one entry of detections for each
    of the images, which differ, and at least one object to find.
    """
    if len(image_ids) != len(detections) or len(set(image_ids)) != len(image_ids):
        raise ValueError(f"{len(detections)} lists of detections for {len(set(image_ids))} different images")
    rows = [row for i, found in zip(image_ids, detections, strict=True) for row in _annotations(i, found)]
    evaluator = _evaluated(truth, image_ids, rows, "bbox")
    place = {image_id: place for place, image_id in enumerate(image_ids)}
    per_class = np.array(evaluator.evalImgs, dtype=object).reshape(len(evaluator.params.catIds), -1)
    matches = [_matches([e for e in row if e is not None], place) for row in per_class if any(e for e in row)]
    if not any(m.objects.any() for m in matches):
        raise ValueError("no object to find in these images: average precision has no value")
    return Evaluation(tuple(image_ids), evaluator.eval["precision"][..., 0, 0], tuple(matches))


def mask_precision(truth: dict, image_ids: Sequence[int], found: Sequence[dict]) -> float:
    """mAP@0.5 in percent of masks, by pycocotools.

    found: of each image, as tensors, torchvision's labels, scores and masks `[n,1,H,W]` in [0,1], at most 100; what
    exceeds a half belongs to the object.
    """
    from pycocotools import mask as runs

    rows = []
    for image_id, objects in zip(image_ids, found, strict=True):
        segments = runs.encode(np.asfortranarray((objects["masks"][:, 0] > 0.5).byte().permute(1, 2, 0).cpu().numpy()))
        for label, score, segment in zip(objects["labels"].tolist(), objects["scores"].tolist(), segments, strict=True):
            row = {"image_id": image_id, "category_id": label, "score": score, "segmentation": segment}
            rows.append(row | {"area": int(runs.area(segment))})
    precision = _evaluated(truth, image_ids, rows, "segm").eval["precision"][0, :, :, 0, 0]
    return 100 * float(precision[precision > -1].mean())


def _evaluated(truth: dict, image_ids: Sequence[int], rows: list[dict], kind: str):
    """pycocotools' COCOeval of boxes ("bbox") or masks ("segm"), at most 100 per image, of every size, accumulated."""
    from pycocotools.cocoeval import COCOeval

    # Its matching marks annotations in place and takes an id of 0 for "no match": it gets numbered copies.
    keep = ("image_id", "category_id", "area", "iscrowd", "segmentation" if kind == "segm" else "bbox")
    wanted = set(image_ids)
    objects = [{key: a[key] for key in keep} for a in truth["annotations"] if a["image_id"] in wanted]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_indexed(truth, objects), _indexed(truth, rows), kind)
        evaluator.params.imgIds, evaluator.params.maxDets = list(image_ids), [LIMIT]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _annotations(image_id: int, found: Detections) -> list[dict]:
    """The best 100 detections of one image as COCO writes them."""
    return [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "score": score,
        }
        for (x0, y0, x1, y1), score, label in zip(*(field[:LIMIT].tolist() for field in found), strict=True)
    ]


def _indexed(truth: dict, annotations: list[dict]):
    """pycocotools' index of annotations, numbered from 1, of the images and categories of `truth`."""
    from pycocotools.coco import COCO

    index = COCO()
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    index.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": numbered}
    index.createIndex()
    return index


def _matches(entries: list[dict], place: dict[int, int]) -> Matches:
    """pycocotools' entries of one class, one per image with objects or detections, sorted by score over all images."""
    images = np.repeat([place[e["image_id"]] for e in entries], [len(e["dtScores"]) for e in entries])
    order = np.argsort(-np.concatenate([e["dtScores"] for e in entries]), kind="stable")
    ignored = np.concatenate([e["dtIgnore"] for e in entries], 1)[:, order].astype(bool)
    matched = np.concatenate([e["dtMatches"] for e in entries], 1)[:, order] > 0
    objects = np.zeros(len(place), np.int64)
    for entry in entries:
        objects[place[entry["image_id"]]] = np.count_nonzero(entry["gtIgnore"] == 0)
    return Matches(images[order].astype(np.int64), matched & ~ignored, ~ignored, objects)


def precision_of(matches: Sequence[Matches]) -> np.ndarray:
    """pycocotools' precision `[T,R,K]` of K classes from their matches, to the bit; -1 for a class without objects."""
    found = np.full((10, len(RECALLS), len(matches)), -1.0)
    for place, one in enumerate(matches):
        total = one.objects.sum()
        for threshold in range(10 if total else 0):
            hits = np.cumsum(one.hits[threshold]).astype(float)
            misses = np.cumsum(one.counted[threshold] & ~one.hits[threshold]).astype(float)
            precision = np.maximum.accumulate((hits / (misses + hits + np.spacing(1)))[::-1])[::-1]
            reached = np.searchsorted(hits / total, RECALLS, side="left")
            read = np.append(precision, 0.0)[np.minimum(reached, len(precision))]
            found[threshold, :, place] = read
    return found
