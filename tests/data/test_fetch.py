from io import BytesIO

import pytest
from PIL import Image

from lib.data import fetch, images, unlabelled
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
    server.files = {"/set/dev_dataset.csv": TABLE.encode()}
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
    server.faults = {"/set/images/b.png": [fault, fault], "/set/dev_dataset.csv": [fault]}
    run("neurips2017", "--url", server.url)
    assert len(images.load_neurips2017(places / "repository" / "data" / "neurips2017", side=SIDE)) == 3
    assert server.requests.count("/set/images/b.png") == 3


@pytest.mark.parametrize(("content", "reason"), [(None, "404"), (b"<html>", "corrupt"), (png(8), "8x8, not 299x299")])
def test_image_that_cannot_be_had_is_reported_and_the_others_stay(server, places, content, reason):
    server.files["/set/images/b.png"] = content
    with pytest.raises(ConnectionError, match=rf"^1 of 3 files are missing \(.*b\.png: .*{reason}.*\); run it again$"):
        run("neurips2017", "--url", server.url)
    folder = places / "repository" / "data" / "neurips2017" / "images"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "c.png"]
    assert server.requests.count("/set/images/b.png") == (1 if content is None else fetch.TRIES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>moved</html>", "is no table with the columns"),
        (TABLE.replace("b,x", "../../b,x").encode(), r"holds an ImageId that is no name: '\.\./\.\./b'"),
    ],
)
def test_a_wrong_table_is_refused(server, places, content, reason):
    server.files["/set/dev_dataset.csv"] = content
    with pytest.raises(ConnectionError, match=rf"dev_dataset\.csv: {reason}"):
        run("neurips2017", "--url", server.url)
    assert not (places / "repository" / "data" / "neurips2017" / "images.csv").exists()


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
    server.files["/set/mine.csv"] = server.files.pop("/set/dev_dataset.csv")
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
    with pytest.raises(ValueError, match=r"x\.jpg: corrupt image"):
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


def test_list_shows_what_is_here_and_how_to_get_the_rest(places, capsys):
    (places / "repository" / "data" / "neurips2017").mkdir(parents=True)
    print(run(""))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["data", "set", "found", "where", "how", "to", "get", "it"]
    assert lines[2].split()[:2] == ["neurips2017", "yes"]
    assert lines[3].split()[:3] == ["imagenet_val", "no", "-"]
    assert any(line.split() == ["camvid", "no", "-", "companion", "data", "camvid"] for line in lines)
    assert any(line.split() == ["coco", "no", "-", "companion", "data", "coco"] for line in lines)
    for name in ("comics", "paintings"):
        assert any(line.split()[:3] == [name, "no", "-"] for line in lines)
    assert all(name in " ".join(lines) for name in ("comic-books-classification", "painter-by-numbers"))
