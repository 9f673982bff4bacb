"""Reading image files: formats, layouts, and what is said when something is not there."""

import gzip

import numpy as np
import pytest

from laplex._support import image_datasets as datasets
from laplex._support.image_datasets import load_images, read_idx

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3": rng.integers(0, 256, (30, 28, 28)),
        "train-labels-idx1": rng.integers(0, 10, 30),
        "t10k-images-idx3": rng.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1": rng.integers(0, 10, 20),
    }


def write(folder, arrays, compress):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        path = folder / f"{name}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(idx(array)) if compress else idx(array))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_a_folder(tmp_path, arrays, compress, layout):
    write(tmp_path / layout, arrays, compress)
    images = load_images(str(tmp_path))
    assert images.train_images.dtype == images.test_images.dtype == np.float32
    np.testing.assert_array_equal(np.rint(images.train_images * 255), arrays["train-images-idx3"])
    np.testing.assert_array_equal(np.rint(images.test_images * 255), arrays["t10k-images-idx3"])
    np.testing.assert_array_equal(images.train_labels, arrays["train-labels-idx1"])
    np.testing.assert_array_equal(images.test_labels, arrays["t10k-labels-idx1"])
    assert images.train_labels.dtype == np.int64
    assert len(images.class_names) == 10


def test_the_debian_package(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path)
    write(tmp_path, arrays, compress=True)
    assert load_images("fashion-mnist").train_images.shape == (30, 28, 28)


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_file_says_how_to_get_it(tmp_path, arrays, monkeypatch, missing):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path)
    write(tmp_path, {name: array for name, array in arrays.items() if name != missing}, True)
    for source in ("fashion-mnist", str(tmp_path)):
        with pytest.raises(FileNotFoundError) as error:
            load_images(source)
        assert f"no {missing}-ubyte" in str(error.value)
        assert str(tmp_path) in str(error.value)
        assert "apt-get install dataset-fashion-mnist" in str(error.value)
        assert "--data digits" in str(error.value)


def test_digits():
    pytest.importorskip("sklearn")
    images = load_images("digits")
    assert images.train_images.shape == (1347, 8, 8)
    assert images.test_images.shape == (450, 8, 8)
    assert images.train_images.min() == 0
    assert images.train_images.max() == 1
    assert set(images.test_labels.tolist()) == set(range(10))
    assert np.array_equal(images.train_images, load_images("digits").train_images)
    # A split: no image of the file twice.
    both = np.concatenate([images.train_images, images.test_images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, both * 16)) == sorted(map(tuple, load_digits().data))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short", b"\0\0", "not an IDX file"),
        ("type", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file"),
        ("text", b"<html>not found</html>", "not an IDX file"),
        ("cut", idx(np.zeros((3, 4)))[:-1], "should hold"),
        ("long", idx(np.zeros((3, 4))) + b"\0", "should hold"),
        ("header", b"\0\0\x08\x03\0\0\0\x01", "should hold"),
        ("plain.gz", idx(np.zeros(3)), "broken gzip"),
        ("cut.gz", gzip.compress(idx(np.arange(200)))[:-20], "broken gzip"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("train-labels-idx1", np.zeros(29), "not images with their labels"),
        ("train-images-idx3", np.zeros((30, 784)), "not images with their labels"),
        ("t10k-labels-idx1", np.full(20, 10), "labels above 9"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, arrays, part, array, message):
    write(tmp_path, {**arrays, part: array}, compress=False)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path))


def test_an_empty_set(tmp_path, arrays):
    empty = {"t10k-images-idx3": np.zeros((0, 28, 28)), "t10k-labels-idx1": np.zeros(0)}
    write(tmp_path, {**arrays, **empty}, compress=False)
    with pytest.raises(ValueError, match="not images with their labels"):
        load_images(str(tmp_path))
