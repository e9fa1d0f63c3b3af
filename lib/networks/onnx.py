"""A YOLOX detector in an ONNX file, as a black box: onnxruntime computes its output, which is decoded here."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

# COCO names its 80 classes by ids from 1 to 90 with ten gaps; networks count them from 0 without gaps.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
STRIDES = (8, 16, 32)
# YOLOX's own evaluation (Megvii-BaseDetection/YOLOX, yolox/exp/yolox_base.py, test_conf and nmsthre); COCO's limit.
THRESHOLD, NMS_IOU, LIMIT = 0.01, 0.65, 100


class OnnxYolox(nn.Module):
    """Called as torchvision's detectors are: images in, boxes, scores and labels out.

    categories: the data set's id of each class. A box counts for every class whose score, objectness times class
    probability, reaches THRESHOLD (YOLOX's own evaluation keeps the best class of each box alone); non-maximum
    suppression within each class at NMS_IOU follows, and the best LIMIT remain. It runs on the CPU, with one thread.
    ValueError in one line for a file that cannot be read or is no YOLOX with this many classes.
    """

    def __init__(self, path: Path, categories: Sequence[int] = COCO_CATEGORIES):
        super().__init__()
        self.path, self.name = path, path.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, not printed
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.name}: cannot be read as an ONNX network ({reason})") from None
        taken, given = self.session.get_inputs()[0].shape, self.session.get_outputs()[0].shape
        self.side = taken[-1]
        anchors = sum((self.side // stride) ** 2 for stride in STRIDES) if isinstance(self.side, int) else None
        if [taken, given] != [[1, 3, self.side, self.side], [1, anchors, 5 + len(categories)]]:
            raise ValueError(f"{self.name} maps {taken} to {given}, which is no YOLOX with {len(categories)} classes")
        self.register_buffer("categories", torch.tensor(categories))
        # A state dict cannot show an ONNX file's weights; stored results are keyed by this digest instead.
        sha256 = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("sha256", torch.frombuffer(bytearray(sha256), dtype=torch.uint8))

    def __reduce__(self) -> tuple:
        """As a worker gets it: from the file."""
        return reopened, (self.path, self.categories.tolist())

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Images of any sizes; what is found comes best first. RuntimeError where a gradient is asked for."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled() and image.requires_grad:
            raise RuntimeError(f"{self.name} is a black box: no gradient passes through an ONNX network")
        square, scale = letterbox(image, self.side)
        bgr = square.flip(0)[None].float().cpu().numpy()
        (output,) = self.session.run(None, {self.session.get_inputs()[0].name: bgr})[0]
        boxes, scores = decode(torch.from_numpy(output), self.side)
        rows, classes = (scores >= THRESHOLD).nonzero(as_tuple=True)
        boxes, scores = boxes[rows], scores[rows, classes]
        kept = batched_nms(boxes, scores, classes, NMS_IOU)[:LIMIT]
        found = {"boxes": boxes[kept] / scale, "scores": scores[kept], "labels": self.categories.cpu()[classes[kept]]}
        return {name: values.to(image.device) for name, values in found.items()}


def letterbox(image: Tensor, side: int) -> tuple[Tensor, float]:
    """The image `[3,H,W]` in [0,1], scaled to fit the top left corner of a gray square `[3,side,side]` in 0-255.

    Returns the square and the scale. As YOLOX's `preproc` (Megvii-BaseDetection/YOLOX, yolox/data/data_augment.py),
    but shrinking bilinearly with Pillow's smoothing instead of OpenCV's without; both round to 8 bits.
    """
    height, width = image.shape[-2:]
    longest = max(height, width)
    size = max(height * side // longest, 1), max(width * side // longest, 1)
    canvas = image.new_full((3, side, side), 114)
    resized = F.interpolate(image[None] * 255, size, mode="bilinear", align_corners=False, antialias=True)
    canvas[:, : size[0], : size[1]] = resized[0].round()
    return canvas, side / longest


def decode(output: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """YOLOX's output `[A,5+C]` as boxes `[A,4]` (x0, y0, x1, y1 on the square of `side` pixels) and scores `[A,C]`.

    A row is (x, y, log width, log height) in units of its grid cell, objectness, and C class probabilities; rows run
    through the grids of strides 8, 16 and 32, line by line (yolox/utils/demo_utils.py, demo_postprocess).
    """
    grids = [(torch.arange(side // stride), torch.tensor([stride])) for stride in STRIDES]
    cells = torch.cat([torch.cartesian_prod(axis, axis, stride) for axis, stride in grids]).to(output)
    rows, columns, strides = cells.split(1, 1)
    boxes = torch.cat([(output[:, :2] + torch.cat([columns, rows], 1)) * strides, output[:, 2:4].exp() * strides], 1)
    return box_convert(boxes, "cxcywh", "xyxy"), output[:, 4:5] * output[:, 5:]


def reopened(path: Path, categories: Sequence[int]) -> OnnxYolox:
    """The detector, as `lib.zoo` gives it."""
    return OnnxYolox(path, categories).eval().requires_grad_(False)
