"""Black-box networks: any ONNX file through onnxruntime, and YOLOX detectors, which need decoding, over it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.families import FAMILIES, Family

# COCO names its 80 classes by ids from 1 to 90 with ten gaps; networks count them from 0 without gaps.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
STRIDES = (8, 16, 32)
GRAY_LEVEL = 114


class OnnxNetwork(nn.Module):
    """The first output of the network in an ONNX file, for one float32 input of the shape that the file states.

    It runs on the CPU, with as many threads as torch has when the file is loaded, whatever the device of its input. No
    gradient passes: it is a black box. FileNotFoundError or ValueError in one line for a missing or unreadable file.
    """

    def __init__(self, path: Path | str):
        super().__init__()
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such ONNX file")
        self.name = path.name
        self.session = _session(path)
        self.input = self.session.get_inputs()[0]
        # A state dict cannot show an ONNX file's weights; stored results are keyed by this digest instead.
        sha256 = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("sha256", torch.frombuffer(bytearray(sha256), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """RuntimeError where a gradient is asked for, ValueError for another shape than the file's."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(f"{self.name} is a black box: no gradient passes through an ONNX network")
        stated = self.input.shape
        fits = len(stated) == x.dim() and all(a == b for a, b in zip(stated, x.shape, strict=True) if type(a) is int)
        if not fits:
            raise ValueError(f"{self.name} takes an input of shape {stated}, not {list(x.shape)}")
        array = np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)
        return torch.from_numpy(self.session.run(None, {self.input.name: array})[0]).to(x.device)


class OnnxYolox(nn.Module):
    """A YOLOX detector in an ONNX file, called as torchvision's are: images in, boxes, scores and labels out.

    Images are letterboxed to `side` (the file's own input). categories: the data set's id of each class. A box counts
    for every class whose score, objectness times class probability, reaches `threshold`; non-maximum suppression within
    each class at IoU `nms` follows, and the best `limit` remain. Defaults: YOLOX's own evaluation
    (Megvii-BaseDetection/YOLOX, yolox/exp/yolox_base.py, test_conf and nmsthre) and COCO's 100 detections.
    """

    def __init__(
        self,
        path: Path | str,
        categories: Sequence[int] = COCO_CATEGORIES,
        *,
        threshold: float = 0.01,
        nms: float = 0.65,
        limit: int = 100,
    ):
        super().__init__()
        self.network = OnnxNetwork(path)
        self.side = self.network.input.shape[-1]
        self.threshold, self.nms, self.limit = threshold, nms, limit
        self.register_buffer("categories", torch.tensor(categories))
        self._check()

    def extra_repr(self) -> str:
        """What its buffers do not say; stored results are keyed by it."""
        return f"side={self.side}, threshold={self.threshold}, nms={self.nms}, limit={self.limit}"

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Images `[3,H,W]`, RGB, in [0,1], of any sizes; per image: boxes `[n,4]` (x0, y0, x1, y1 in its pixels),
        scores `[n]` and labels `[n]` (category ids), best first."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        # torchvision's operators take a second to import, which only detection needs to wait for.
        from torchvision.ops import batched_nms

        canvas, scale = letterbox(image, self.side)
        boxes, scores = decode(self.network(canvas.flip(0)[None])[0], self.side)  # flipped: it wants BGR
        rows, classes = (scores >= self.threshold).nonzero(as_tuple=True)
        boxes, scores = boxes[rows], scores[rows, classes]
        kept = batched_nms(boxes, scores, classes, self.nms)[: self.limit]
        return {"boxes": boxes[kept] / scale, "scores": scores[kept], "labels": self.categories[classes[kept]]}

    def _check(self) -> None:
        """ValueError unless the file's shapes are those of a YOLOX network with this many classes."""
        given = [self.network.input.shape, self.network.session.get_outputs()[0].shape]
        if len(given[0]) == 4 and isinstance(self.side, int):
            anchors = sum((self.side // stride) ** 2 for stride in STRIDES)
            if given == [[1, 3, self.side, self.side], [1, anchors, 5 + len(self.categories)]]:
                return
        raise ValueError(
            f"{self.network.name} maps {given[0]} to {given[1]}, which is no YOLOX with {len(self.categories)} classes"
        )


FAMILIES["yolox_onnx"] = Family(None, load=lambda spec, path: OnnxYolox(path))


def letterbox(image: Tensor, side: int) -> tuple[Tensor, float]:
    """The image `[3,H,W]` in [0,1], scaled to fit the top left corner of a gray square `[3,side,side]` in 0-255.

    Returns the square and the scale. As YOLOX's `preproc` (Megvii-BaseDetection/YOLOX, yolox/data/data_augment.py),
    but shrinking bilinearly with Pillow's smoothing instead of OpenCV's without; both round to 8 bits.
    """
    height, width = image.shape[-2:]
    longest = max(height, width)
    size = max(height * side // longest, 1), max(width * side // longest, 1)
    canvas = image.new_full((3, side, side), GRAY_LEVEL)
    resized = F.interpolate(image[None] * 255, size, mode="bilinear", align_corners=False, antialias=True)
    canvas[:, : size[0], : size[1]] = resized[0].round()
    return canvas, side / longest


def decode(output: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """YOLOX's output `[A,5+C]` as boxes `[A,4]` (x0, y0, x1, y1 on the square of `side` pixels) and scores `[A,C]`.

    A row is (x, y, log width, log height) in units of its grid cell, objectness, and C class probabilities; rows run
    through the grids of strides 8, 16 and 32, line by line (yolox/utils/demo_utils.py, demo_postprocess).
    """
    cells, strides = _anchors(side)
    cells, strides = cells.to(output), strides.to(output)
    centres = (output[:, :2] + cells) * strides
    half = output[:, 2:4].exp() * strides / 2
    return torch.cat([centres - half, centres + half], 1), output[:, 4:5] * output[:, 5:]


def _anchors(side: int) -> tuple[Tensor, Tensor]:
    """Column and row of every cell, `[A,2]`, and its stride, `[A,1]`."""
    cells, strides = [], []
    for stride in STRIDES:
        axis = torch.arange(side // stride)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        cells.append(torch.stack([columns, rows], -1).reshape(-1, 2))
        strides.append(torch.full((len(cells[-1]), 1), stride))
    return torch.cat(cells), torch.cat(strides)


def _session(path: Path):
    """onnxruntime's session of a file. ValueError in one line, naming the file, if it cannot be read."""
    import onnxruntime  # half a second that only black boxes need

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path.name}: cannot be read as an ONNX network ({reason})") from None
