import hashlib
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.networks import onnx
from lib.networks.onnx import COCO_CATEGORIES, OnnxYolox, decode, letterbox

SIDE = 64
ANCHORS = 64 + 16 + 4
CLASSES = 2


# --- ONNX files written by hand: a file is a protobuf message, whose fields are (number, wire type, content).


def field(number, content):
    """One protobuf field: a whole number, or bytes, text or a message with its length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 128 for group in groups[:-1]] + [groups[-1]])


def value_info(name, shape):
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def write_onnx(path, output):
    """A network `images` -> `output`: the given array whatever the image."""
    graph = field(1, field(1, "stored") + field(2, "output") + field(4, "Identity")) + field(2, "graph")
    dims = b"".join(field(1, size) for size in output.shape)
    graph += field(5, dims + field(2, 1) + field(8, "stored") + field(9, output.astype("<f4").tobytes()))
    graph += field(11, value_info("images", (1, 3, SIDE, SIDE))) + field(12, value_info("output", output.shape))
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))
    return path


def quiet_output():
    """An output in which no class has any score."""
    return np.zeros((1, ANCHORS, 5 + CLASSES), np.float32)


def put(output, row, box, stride, cell, objectness, probabilities):
    """Write one detection (x0, y0, x1, y1 on the square) into a row, as the network would say it."""
    x0, y0, x1, y1 = box
    centre = (x0 + x1) / 2 / stride - cell[0], (y0 + y1) / 2 / stride - cell[1]
    size = math.log((x1 - x0) / stride), math.log((y1 - y0) / stride)
    output[0, row] = (*centre, *size, objectness, *probabilities)


def yolox(tmp_path, output):
    return OnnxYolox(write_onnx(tmp_path / "tiny.onnx", output), categories=(7, 90))


# --- a black box


def test_its_digest_is_a_buffer(tmp_path):
    state = yolox(tmp_path, quiet_output()).state_dict()
    assert bytes(state["sha256"].numpy()).hex() == hashlib.sha256((tmp_path / "tiny.onnx").read_bytes()).hexdigest()


def test_a_worker_gets_the_same_network_from_the_file(tmp_path):
    output = quiet_output()
    put(output, 0, (8, 8, 24, 24), 8, (0, 0), 0.9, (0.9, 0.1))
    network = yolox(tmp_path, output)
    torch.save(network, tmp_path / "sent.pt")
    sent = torch.load(tmp_path / "sent.pt", weights_only=False)
    image = [torch.zeros(3, SIDE, SIDE)]
    assert all(torch.equal(a, b) for a, b in zip(network(image)[0].values(), sent(image)[0].values(), strict=True))


def test_a_gradient_through_a_black_box_is_refused(tmp_path):
    detector, x = yolox(tmp_path, quiet_output()), torch.rand(3, 32, 32, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^tiny\.onnx is a black box: no gradient passes"):
        detector([x])
    with torch.no_grad():
        assert len(detector([x])) == 1


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", bytes(100), None])
def test_a_file_that_is_no_onnx_network_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^broken\.onnx: cannot be read as an ONNX network \(") as error:
        OnnxYolox(path)
    assert "\n" not in str(error.value)


# --- YOLOX


def test_coco_s_80_classes_have_its_ids():
    assert len(COCO_CATEGORIES) == 80
    assert COCO_CATEGORIES[0] == 1 and COCO_CATEGORIES[11] == 13 and COCO_CATEGORIES[-1] == 90


def test_decoding_equals_the_cell_by_cell_definition():
    output = torch.randn(ANCHORS, 5 + CLASSES, generator=torch.Generator().manual_seed(0))
    output[:, 4:] = output[:, 4:].sigmoid()
    boxes, scores = decode(output, SIDE)
    row = 0
    for stride in (8, 16, 32):
        for line in range(SIDE // stride):
            for column in range(SIDE // stride):
                x, y, log_width, log_height, objectness, *probabilities = output[row].tolist()
                middle = (x + column) * stride, (y + line) * stride
                half = math.exp(log_width) * stride / 2, math.exp(log_height) * stride / 2
                expected = [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
                assert boxes[row].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)
                assert scores[row].tolist() == pytest.approx([objectness * p for p in probabilities], rel=1e-5)
                row += 1
    assert row == ANCHORS


def test_letterbox_is_pillow_s_bilinear_resize_on_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    canvas, scale = letterbox(torch.from_numpy(pixels).permute(2, 0, 1) / 255, 48)
    resized = np.asarray(Image.fromarray(pixels).resize((48, 32), Image.Resampling.BILINEAR))
    assert scale == 48 / 90 and canvas.shape == (3, 48, 48)
    assert (canvas[:, :32].permute(1, 2, 0) - torch.from_numpy(resized.copy())).abs().max() <= 1
    assert (canvas[:, 32:] == 114).all()


def test_the_network_sees_bgr_levels(tmp_path):
    detector = yolox(tmp_path, quiet_output())
    session, seen = detector.session, []
    detector.session = SimpleNamespace(
        get_inputs=session.get_inputs,
        run=lambda names, given: seen.append(given["images"]) or session.run(names, given),
    )
    detector([torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 32, 64)])
    assert seen[0].shape == (1, 3, SIDE, SIDE)
    assert seen[0][0, :, 0, 0].tolist() == [0, 128, 255]
    assert seen[0][0, :, 40, 0].tolist() == [114, 114, 114]


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (480, 640), (75, 50)])
def test_boxes_come_back_in_the_image_s_own_pixels(tmp_path, size):
    """An object at 1/4 to 1/2 of the image's width and 1/8 to 7/8 of its height, whatever the image's size."""
    height, width = size
    box = (width / 4, height / 8, width / 2, height * 7 / 8)
    output = quiet_output()
    put(output, 64 + 5, [edge * SIDE / max(size) for edge in box], 16, (1, 1), 0.8, (0.01, 0.9))
    (found,) = yolox(tmp_path, output)([torch.rand(3, height, width)])
    assert found["boxes"].tolist() == [pytest.approx(box, rel=1e-4)]
    assert found["scores"].tolist() == [pytest.approx(0.72)] and found["labels"].tolist() == [90]


def test_suppression_within_a_class_best_first_and_no_more_than_the_limit(tmp_path, monkeypatch):
    output = quiet_output()
    put(output, 0, (0, 0, 20, 20), 8, (0, 0), 0.9, (1, 0))
    put(output, 1, (0, 0, 20, 19), 8, (1, 0), 0.8, (1, 0))  # IoU 0.95 with the first, same class: suppressed
    put(output, 2, (0, 0, 20, 19), 8, (2, 0), 0.7, (0, 1))  # the other class
    put(output, 3, (0, 0, 20, 12), 8, (3, 0), 0.95, (1, 0))  # IoU 0.6 with the first
    put(output, 4, (30, 30, 40, 40), 8, (4, 0), 0.6, (0.5, 0.25))  # counts for both classes
    put(output, 5, (50, 50, 60, 60), 8, (5, 0), 0.005, (1, 1))  # below the threshold
    image = torch.rand(3, SIDE, SIDE)
    (found,) = yolox(tmp_path, output)([image])
    assert found["scores"].tolist() == pytest.approx([0.95, 0.9, 0.7, 0.3, 0.15])
    assert found["labels"].tolist() == [7, 7, 90, 7, 90]
    monkeypatch.setattr(onnx, "LIMIT", 2)
    (found,) = yolox(tmp_path, output)([image])
    assert found["scores"].tolist() == pytest.approx([0.95, 0.9])


def test_an_image_without_objects_gives_empty_boxes(tmp_path):
    found = yolox(tmp_path, quiet_output())([torch.rand(3, 20, 30)] * 2)
    assert [one["boxes"].shape for one in found] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("shape", [(1, 85, 7), (1, ANCHORS, 8), (ANCHORS, 7)])
def test_a_network_of_another_kind_is_refused(tmp_path, shape):
    path = write_onnx(tmp_path / "other.onnx", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"^other\.onnx maps .* which is no YOLOX with 2 classes$"):
        OnnxYolox(path, categories=(7, 90))


# --- the real detector


@pytest.mark.skipif(not os.environ.get("COMPANION_ASSETS"), reason="no assets")
def test_yolox_nano_finds_coco_s_objects():
    """AP 28.6 and AP50 44.4 on all 206 images; here the first 16."""
    from lib.data.detection import load_coco
    from lib.tasks.precision import evaluate_boxes
    from lib.tasks.predictions import detect, detections_from

    assets = Path(os.environ["COMPANION_ASSETS"])
    data = load_coco(assets / "coco", count=16)
    detections = detections_from(detect(OnnxYolox(assets / "weights" / "yolox_nano.onnx"), data.images))
    found = evaluate_boxes(data.truth, data.image_ids, detections)
    assert found.ap("0.5") == pytest.approx(45.9, abs=1)
    assert found.ap("0.5:0.95") == pytest.approx(27.0, abs=1)
