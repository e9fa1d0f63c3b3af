import shutil
import socket
import time
from datetime import date
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lib import digests, download
from lib.data import fetch, images, unlabelled
from lib.digests import content_sha256
from tests.data.conftest import leftovers, run

pytestmark = pytest.mark.usefixtures("places")

IDS = ["a", "b", "c"]
TABLE = "ImageId,URL,TrueLabel\n" + "".join(f"{name},x,{label}\n" for label, name in enumerate(IDS, start=1))


SIDE = 299


def png(side=SIDE, colour=(10, 20, 30)):
    buffer = BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def server(server):
    """The loopback server with a set of three images."""
    server.files = {"/set/images.csv": TABLE.encode()}
    server.files |= {f"/set/images/{name}.png": png() for name in IDS}
    return server


def test_download_gives_a_set_that_loads(server, places):
    run("neurips2017", "--url", server.url)
    folder = places / "repository" / "data" / "neurips2017"
    data = images.load_neurips2017(folder, side=SIDE)
    assert data.ids == IDS and data.labels.tolist() == [0, 1, 2]
    assert data.images[0, :, 0, 0].tolist() == [10, 20, 30]
    assert not leftovers(folder)


def test_second_run_asks_for_nothing(server):
    run("neurips2017", "--url", server.url)
    server.requests.clear()
    run("neurips2017", "--url", server.url)
    assert server.requests == []


def test_interrupted_run_goes_on_and_a_damaged_image_is_fetched_again(server, places):
    run("neurips2017", "--url", server.url)
    folder = places / "repository" / "data" / "neurips2017" / "images"
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(png()[:60])
    server.requests.clear()
    run("neurips2017", "--url", server.url)
    assert sorted(server.requests) == ["/set/images/a.png", "/set/images/b.png"]
    assert (folder / "b.png").read_bytes() == png()


@pytest.mark.parametrize("fault", [503, 429, "short"])
def test_passing_faults_are_tried_again(server, places, fault):
    server.faults = {"/set/images/b.png": [fault, fault], "/set/images.csv": [fault]}
    run("neurips2017", "--url", server.url)
    assert len(images.load_neurips2017(places / "repository" / "data" / "neurips2017", side=SIDE)) == 3
    assert server.requests.count("/set/images/b.png") == 3


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "404"), (b"<html>", "a web page"), (png(8), "8x8, not 299x299")]
)
def test_image_that_cannot_be_had_is_reported_and_the_others_stay(server, places, content, reason):
    server.files["/set/images/b.png"] = content
    with pytest.raises(ConnectionError, match=rf"^1 of 3 files are missing \(.*b\.png: .*{reason}.*\); run it again$"):
        run("neurips2017", "--url", server.url)
    folder = places / "repository" / "data" / "neurips2017" / "images"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "c.png"]
    assert server.requests.count("/set/images/b.png") == (1 if content is None else download.TRIES)


def test_a_wrong_table_is_refused(server, places):
    server.files["/set/images.csv"] = b"<html>moved</html>"
    with pytest.raises(ConnectionError, match=r"images\.csv: .*no column 'ImageId', only <html>moved</html>"):
        run("neurips2017", "--url", server.url)
    assert not (places / "repository" / "data" / "neurips2017" / "images.csv").exists()


def test_a_table_that_reaches_outside_is_refused(server, places):
    server.files["/set/images.csv"] = TABLE.replace("b,x", "../../b,x").encode()
    with pytest.raises(ValueError, match=r"its list names a file outside of it: 'images/\.\./\.\./b\.png'"):
        run("neurips2017", "--url", server.url)
    assert not list(places.rglob("*.png"))


@pytest.mark.parametrize("name", ["neurips2017", "camvid", "coco"])
def test_assets_are_linked_not_copied(server, places, monkeypatch, name):
    assets = places / "assets" / name
    assets.mkdir(parents=True)
    monkeypatch.setenv("COMPANION_ASSETS", str(places / "assets"))
    for _ in range(2):
        run(name)
        link = places / "repository" / "data" / name
        assert link.is_symlink() and link.samefile(assets)
    assert server.requests == []


def test_a_list_of_another_name_can_be_told(server, places):
    server.files["/set/mine.csv"] = server.files.pop("/set/images.csv")
    fetch.get("neurips2017", url=server.url, listing="mine.csv")
    assert (places / "repository" / "data" / "neurips2017" / "images.csv").read_text() == TABLE
    with pytest.raises(ValueError, match=r"^camvid has 3 lists of images"):
        fetch.get("camvid", url=server.url, listing="mine.csv")


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(ValueError, match=r"^no data set 'cocoa'; did you mean 'coco'\? There are: neurips2017, "):
        run("cocoa")


def test_link_to_a_folder_that_is_gone_is_replaced(server, places):
    link = places / "repository" / "data" / "neurips2017"
    link.parent.mkdir(parents=True)
    link.symlink_to(places / "gone")
    run("neurips2017", "--url", server.url)
    assert not link.is_symlink()
    assert len(images.load_neurips2017(link, side=SIDE)) == 3


def test_imagenet_is_linked_from_a_folder_that_holds_it(places):
    folder = places / "mine"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "v.jpeg").write_bytes(png())
    (folder / "labels.csv").write_text("file,label\nv.jpeg,3\n")
    run("imagenet_val", "--from", str(folder))
    assert images.load_imagenet_val(images.find_folder("data/imagenet_val"), side=8).labels.tolist() == [3]
    with pytest.raises(FileNotFoundError, match=r"labels\.csv"):
        run("imagenet_val", "--from", str(places))


def test_imagenet_link_replaces_nothing_else(places):
    test_imagenet_is_linked_from_a_folder_that_holds_it(places)
    (places / "repository" / "data" / "imagenet_val").unlink()
    (places / "repository" / "data" / "imagenet_val").mkdir()
    with pytest.raises(FileExistsError, match="data/imagenet_val exists already"):
        run("imagenet_val", "--from", str(places / "mine"))


def test_imagenet_without_a_folder_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded from here\. .*image-net\.org.*--from FOLDER$"):
        run("imagenet_val")


@pytest.mark.parametrize("name", ["comics", "paintings"])
@pytest.mark.parametrize("path", ["x.png", "train/1.jpg", "a/b/c/x.webp"])
def test_a_collection_is_linked_from_a_folder_of_any_layout(places, name, path):
    picture = places / "mine" / path
    picture.parent.mkdir(parents=True)
    picture.write_bytes(png(40))
    (places / "mine" / "all_data_info.csv").write_text("artist\n")
    for _ in range(2):
        run(name, "--from", str(places / "mine"))
        link = places / "repository" / "data" / name
        assert link.is_symlink() and link.samefile(places / "mine")
    assert [image.shape for image in unlabelled.unlabelled(f"data/{name}")] == [(3, 40, 40)]


@pytest.mark.parametrize("name", ["comics", "paintings"])
def test_a_folder_that_is_no_collection_is_not_linked(places, name):
    folder = places / "mine"
    with pytest.raises(FileNotFoundError, match=r"mine: no such folder$"):
        run(name, "--from", str(folder))
    folder.mkdir()
    with pytest.raises(ValueError, match=r"mine: no images here"):
        run(name, "--from", str(folder))
    (folder / "x.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"x\.jpg: is a web page"):
        run(name, "--from", str(folder))
    assert not (places / "repository" / "data" / name).is_symlink()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("comics", "kaggle datasets download cenkbircanoglu/comic-books-classification --unzip"),
        ("paintings", "kaggle competitions download -c painter-by-numbers -f train.zip"),
    ],
)
def test_a_collection_without_a_folder_says_what_to_do(name, command):
    with pytest.raises(FileNotFoundError, match=rf"{command}.*companion data {name} --from FOLDER$") as error:
        run(name)
    assert "\n" not in str(error.value)


def test_list_shows_what_is_here_and_how_to_get_the_rest(places):
    (places / "repository" / "data" / "neurips2017").mkdir(parents=True)
    text = run("")
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["data", "set", "what"]
    found = {name: " ".join(line for line in lines if line.split()[0] == name) for name in fetch.SETS}
    assert all(" no " in line for name, line in found.items() if name != "neurips2017")
    assert "incomplete:" in found["neurips2017"] and "CC BY 2.0" in found["neurips2017"]
    assert "companion fetch camvid" in found["camvid"]
    assert all(name in text for name in ("competitions download", "--from FOLDER", "image-net.org"))


def test_half_a_set_is_incomplete(server, places):
    run("neurips2017", "--url", server.url)
    assert fetch.state("neurips2017") == "incomplete: 3 of 1,000 files"
    assert fetch.state("neurips2017", {"a": [], "c": []}) == "yes"
    folder = places / "repository" / "data" / "neurips2017"
    (folder / "images" / "c.png").unlink()
    assert fetch.state("neurips2017", {"a": [], "c": []}) == "incomplete: 1 of 2 files"
    (folder / "images.csv").unlink()
    assert fetch.state("neurips2017").startswith("incomplete: ")


def test_only_the_chosen_images_are_fetched_and_of_their_pixels(server, places):
    server.files["/set/images/b.png"] = png(colour=(1, 2, 3))
    pixels = {name: content_sha256(image(places, colour)) for name, colour in (("a", (10, 20, 30)), ("b", (1, 2, 3)))}
    fetch.get("neurips2017", url=server.url, chosen={"b": [pixels["b"]]})
    assert sorted(server.requests) == ["/set/images.csv", "/set/images/b.png"]
    with pytest.raises(ConnectionError, match=r"b\.png: is another file than it was: SHA-256 is .*, expected "):
        fetch.get("neurips2017", url=server.url, chosen={"b": [pixels["a"]]})
    with pytest.raises(ValueError, match=r"^neurips2017 has no image 'x' \(1 of 2 chosen images are not in it\)$"):
        fetch.get("neurips2017", url=server.url, chosen={"b": [], "x": []})


def image(folder, colour):
    """The same picture, compressed by another method."""
    path = folder / f"{colour}.webp"
    Image.new("RGB", (SIDE, SIDE), colour).save(path, lossless=True)
    return path


def test_a_file_without_a_committed_digest_is_recorded_and_another_one_refused(server, places):
    fetch.get("neurips2017", url=server.url)
    today = date.today().isoformat()
    assert fetch.get("neurips2017", url=server.url).endswith(f" (unverified, first seen {today})")
    (places / "repository" / "data" / "neurips2017" / "images" / "a.png").unlink()
    server.files["/set/images/a.png"] = png(colour=(1, 1, 1))
    with pytest.raises(ConnectionError, match=rf"a\.png: has changed: SHA-256 is .*, first seen {today} as "):
        fetch.get("neurips2017", url=server.url)
    assert not (places / "repository" / "data" / "neurips2017" / "images" / "a.png").exists()
    record = places / "repository" / digests.RECORD  # as docs/fetch.md says: without that line the new one is taken
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if "images/a.png" not in line))
    fetch.get("neurips2017", url=server.url)
    assert len(record.read_text().splitlines()) == len(lines)


def test_a_full_disk_is_said_before_anything_is_written(server, places, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(OSError, match=r"^needs 176 MB, but the disk of .* has 0 MB"):
        fetch.get("neurips2017", url=server.url)
    assert not leftovers(places) and server.requests == ["/set/images.csv"]


def test_a_disk_that_fills_up_is_no_reason_to_try_again(server, places, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ConnectionError, match=r"images\.csv: needs 0 MB, but the disk of "):
        fetch.get("neurips2017", url=server.url)
    assert server.requests == ["/set/images.csv"]


@pytest.mark.parametrize(
    ("url", "mirror", "message"),
    [
        ("http://example.org/x", False, "only https is taken"),
        ("http://example.org/x", True, "only https is taken"),
        ("http://127.0.0.1:1/x", False, "the host is none of raw"),
        ("https://example.org/x", False, "the host is none of raw"),
        ("https://raw.githubusercontent.com.example.org/x", False, "the host is none of raw"),
        ("ftp://raw.githubusercontent.com/x", False, "only https is taken"),
    ],
)
def test_other_hosts_and_open_connections_are_refused(places, url, mirror, message):
    with pytest.raises(ValueError, match=message):
        download.download(places, url, {"a": download.File(Path.exists)}, mirror=mirror)


def test_a_redirection_to_another_host_is_refused(server, places):
    server.redirects = {"/set/images/b.png": server.url.replace("127.0.0.1", "localhost") + "/images/a.png"}
    with pytest.raises(ConnectionError, match=r"^1 of 3 files are missing .*: the host is none of .*127\.0\.0\.1"):
        fetch.get("neurips2017", url=server.url)
    assert not (places / "repository" / "data" / "neurips2017" / "images" / "b.png").exists()


def test_every_set_comes_over_https_from_a_host_of_the_list():
    for data in fetch.SETS.values():
        if data.url:
            download.permitted(data.url)


def test_a_host_that_does_not_answer_is_said_within_three_seconds(places):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"^no connection to 127\.0\.0\.1 \(.*\); offline, or a proxy"):
            fetch.get("neurips2017", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - start < 3
