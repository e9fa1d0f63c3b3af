"""COCO's average precision (pycocotools), also of bootstrap samples of images; without torch."""

import contextlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
MAX_DETECTIONS = 100  # detections per image, COCO's
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
    """How one detector does on one set of images."""

    image_ids: tuple[int, ...]  # in the order that a bootstrap sample's indices mean
    matches: tuple[Matches, ...]  # per class that has objects or detections

    def ap(self, iou: str = "0.5") -> float:
        """Mean average precision in percent at IoU "0.5" or "0.5:0.95", as pycocotools gives it, to the bit."""
        classes = [one for one in self.matches if one.objects.any()]
        precision = np.array([[_at_recalls(one, k) for one in classes] for k in range(10)[IOUS[iou]]])
        # pycocotools adds up threshold by threshold, recall by recall.
        return 100 * float(precision.swapaxes(1, 2).ravel().mean())

    def resampled(self, counts: np.ndarray, iou: str = "0.5") -> np.ndarray:
        """`ap` of bootstrap samples, `[B]`; NaN for a sample without any object.

        counts: how often each image is drawn, `[B,N]`. Equals pycocotools' accumulation over the repeated images to
        rounding, without matching again: a detection of an image drawn w times counts as w of the same score.
        """
        total, classes = np.zeros(len(counts)), np.zeros(len(counts))
        for matches in self.matches:
            objects = counts @ matches.objects
            total += np.where(objects > 0, _average_precision(matches, counts, objects, IOUS[iou]), 0)
            classes += objects > 0
        return 100 * np.divide(total, classes, out=np.full(len(counts), np.nan), where=classes > 0)


def _average_precision(matches: Matches, weights: np.ndarray, objects: np.ndarray, ious: slice) -> np.ndarray:
    """Average precision of one class under image weights `[B,N]` with `objects` `[B]` to find, mean over IoUs, `[B]`.

    The best precision at a recall or beyond is always reached at a hit; so only hits are looked at, and each counts as
    often as recalls lie between the previous hit's and its own.
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


def _at_recalls(matches: Matches, threshold: int) -> np.ndarray:
    """pycocotools' precision of one class at its 101 recalls."""
    hits = np.cumsum(matches.hits[threshold]).astype(float)
    misses = np.cumsum(matches.counted[threshold] & ~matches.hits[threshold]).astype(float)
    precision = np.maximum.accumulate((hits / (misses + hits + np.spacing(1)))[::-1])[::-1]
    reached = np.searchsorted(hits / matches.objects.sum(), RECALLS, side="left")
    return np.append(precision, 0.0)[np.minimum(reached, len(precision))]


def evaluate_boxes(truth: dict, image_ids: Sequence[int], detections: Sequence[Detections]) -> Evaluation:
    """COCO's box evaluation of the detections, at most 100 per image, in the images `image_ids` of `truth` (see
    `DetectionSet`). ValueError unless each of these has one entry, and there is an object to find."""
    if len(image_ids) != len(detections) or len(set(image_ids)) != len(image_ids):
        raise ValueError(f"{len(detections)} lists of detections for {len(set(image_ids))} different images")
    rows = [
        {"image_id": image_id, "category_id": label, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for image_id, found in zip(image_ids, detections, strict=True)
        for (x0, y0, x1, y1), score, label in zip(*(field.tolist() for field in found), strict=True)
    ]
    return _evaluated(truth, image_ids, rows, "bbox")


def mask_precision(truth: dict, image_ids: Sequence[int], found: Sequence[dict]) -> float:
    """mAP@0.5 in percent of masks, by pycocotools; found: of each image torchvision's labels, scores and masks
    `[n,1,H,W]` in [0,1], at most 100; what exceeds a half belongs to the object."""
    from pycocotools import mask as runs

    rows = []
    for image_id, objects in zip(image_ids, found, strict=True):
        segments = runs.encode(np.asfortranarray((objects["masks"][:, 0] > 0.5).byte().permute(1, 2, 0).cpu().numpy()))
        for label, score, segment in zip(objects["labels"].tolist(), objects["scores"].tolist(), segments, strict=True):
            rows.append({"image_id": image_id, "category_id": label, "score": score, "segmentation": segment})
    return _evaluated(truth, image_ids, rows, "segm").ap()


def _evaluated(truth: dict, image_ids: Sequence[int], rows: list[dict], kind: str) -> Evaluation:
    """pycocotools' matches of boxes ("bbox") or masks ("segm"); rows: detections as COCO writes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known, seen = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for index, annotations in ((known, truth["annotations"]), (seen, rows)):
            # Matching marks annotations in place and takes an id of 0 for "no match": it gets numbered copies.
            numbered = [{"area": 0.0, "iscrowd": 0, **one, "id": number} for number, one in enumerate(annotations, 1)]
            index.dataset = truth | {"annotations": numbered}
            index.createIndex()
        evaluator = COCOeval(known, seen, kind)
        evaluator.params.imgIds, evaluator.params.maxDets = list(image_ids), [MAX_DETECTIONS]
        evaluator.params.areaRng = evaluator.params.areaRng[:1]
        evaluator.evaluate()
    place = {image_id: place for place, image_id in enumerate(image_ids)}
    per_class = np.array(evaluator.evalImgs, dtype=object).reshape(len(evaluator.params.catIds), -1)
    matches = [_matches([e for e in row if e is not None], place) for row in per_class if any(e for e in row)]
    if not any(m.objects.any() for m in matches):
        raise ValueError("no object to find in these images: average precision has no value")
    return Evaluation(tuple(image_ids), tuple(matches))


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


def packed(detections: Sequence[Detections]) -> Arrays:
    """Detections as flat arrays; `counts` says how many belong to each image."""
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    flat = {name: np.concatenate([getattr(d, name) for d in [empty, *detections]]) for name in Detections._fields}
    return flat | {"counts": np.array([len(d.scores) for d in detections], np.int64)}


def detections_from(arrays: Arrays) -> list[Detections]:
    """The inverse of `packed`."""
    fields = [split(arrays[name], arrays["counts"]) for name in Detections._fields]
    return [Detections(*one) for one in zip(*fields, strict=True)]


def packed_evaluations(parts: Sequence[Evaluation]) -> Arrays:
    """Evaluations as flat arrays, one after the other."""
    classes = [one for part in parts for one in part.matches]
    # Precision is read at hits only, so what comes after the last hit at any threshold says nothing.
    ends = [np.append(0, one.hits.any(0).nonzero()[0] + 1)[-1] for one in classes]
    kept = [(one.images[:n], one.hits[:, :n], one.counted[:, :n]) for one, n in zip(classes, ends, strict=True)]
    images, hits, counted = zip(*kept, strict=True)
    return {
        "ids": np.concatenate([part.image_ids for part in parts]),
        "classes": np.array([len(part.matches) for part in parts]),
        "lengths": np.array(ends),
        "images": np.concatenate(images).astype(np.int32),
        "hits": np.packbits(np.concatenate(hits, 1), axis=0),
        "counted": np.packbits(np.concatenate(counted, 1), axis=0),
        "objects": np.concatenate([one.objects for one in classes]).astype(np.int32),
    }


def evaluations_from(arrays: Arrays, counts: Sequence[int]) -> list[Evaluation]:
    """The inverse of `packed_evaluations`; counts: of the images of each."""
    hits, counted = (np.unpackbits(arrays[name], axis=0)[:10].astype(bool) for name in ("hits", "counted"))
    fields = (
        split(arrays["images"].astype(np.int64), arrays["lengths"]),
        split(hits, arrays["lengths"], 1),
        split(counted, arrays["lengths"], 1),
        split(arrays["objects"].astype(np.int64), np.repeat(counts, arrays["classes"])),
    )
    classes = iter([Matches(*one) for one in zip(*fields, strict=True)])
    matches = [tuple(itertools.islice(classes, count)) for count in arrays["classes"]]
    ids = [tuple(part.tolist()) for part in split(arrays["ids"], counts)]
    return [Evaluation(one, several) for one, several in zip(ids, matches, strict=True)]


def scored_boxes(truth: np.ndarray, image_ids: np.ndarray, found: Arrays, *, device: str) -> Arrays:
    """`evaluate_boxes` as arrays, for the store. truth: its JSON, uint8.  found: packed detections."""
    return packed_evaluations([evaluate_boxes(json.loads(truth.tobytes()), image_ids.tolist(), detections_from(found))])


def split(array: np.ndarray, lengths: Sequence[int], axis: int = 0) -> list[np.ndarray]:
    """An array in parts of these lengths."""
    return np.split(array, np.cumsum(lengths), axis)[:-1]
