"""The tutorials run on bundled data, draw their pictures and say what they promise."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.datasets
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"

#: epochs, and what the output has to have
TUTORIALS = {
    "tutorial_mnist": (
        10,
        [
            r"Test accuracy: by hand 0\.\d+, skorch 0\.\d+, here 0\.\d+",
            r"Unscaled pixels, skorch: loss nan, no error, test accuracy 0\.\d+",
            r"Unscaled pixels, here: ValueError: Solver produced non-finite .* The loss is nan at epoch 1\.",
        ],
    ),
    "tutorial_mnist_modern": (
        5,
        [
            r"Test accuracy, plain, five seeds: mean 0\.\d+",
            r"Test accuracy, modern, five seeds: mean 0\.9\d+",
            r"Test accuracy, modern by hand: 0\.9\d+",
            r"from plain to modern 5 parameters",
        ],
    ),
    "tutorial_fashion_mnist": (60, [r"Test accuracy: by hand 0\.[89]\d+, here 0\.[89]\d+"]),
    "tutorial_learning_rates": (
        40,
        [
            r"Best: rate 0\.01, epoch \d+ of 40",
            r"Test accuracy in a new process: 0\.[89]\d+",
            r"Test accuracy by hand: 0\.[89]\d+",
        ],
    ),
    "tutorial_cifar10": (30, [r"\n +30 ", r"Test accuracy: by hand 0\.\d+, here 0\.\d+"]),
}


def run(tutorial, folder, *options):
    """What a tutorial prints; it warns of nothing and draws a picture."""
    command = [sys.executable, EXAMPLES / f"{tutorial}.py", "--figure", "curves.png", *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert plt.imread(folder / "curves.png").std() > 0.05
    return result.stdout


def test_there_is_a_test_of_each_tutorial():
    assert {path.stem for path in EXAMPLES.glob("tutorial_*.py")} == set(TUTORIALS)


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_tutorial(tutorial, tmp_path):
    epochs, patterns = TUTORIALS[tutorial]
    output = run(tutorial, tmp_path, "--epochs", str(epochs))
    for pattern in [*patterns, r"By hand: .* \d+ lines", "Here: .*"]:
        assert re.search(pattern, output), f"{pattern}\n{output}"
    assert len((EXAMPLES / f"{tutorial}.py").read_text().splitlines()) < 60


@pytest.fixture
def load_images(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    return lambda **options: runpy.run_path(str(EXAMPLES / "_shared.py"))["load_images"](SimpleNamespace(**options))


def test_images_of_ones_own(tmp_path, load_images):
    digits = sklearn.datasets.load_digits()
    labels = np.array(list("abcdefghij"))[digits.target]
    np.savez(tmp_path / "images.npz", X=digits.images.astype(np.uint8), y=labels)
    parts = load_images(data="digits", npz=tmp_path / "images.npz")
    for own, bundled in zip(parts, load_images(data="digits", npz=None), strict=True):
        np.testing.assert_array_equal(own[0], bundled[0])
        np.testing.assert_array_equal(own[1], bundled[1])


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
def test_images_from_openml(data, monkeypatch, load_images):
    def fetch(name, **settings):
        assert name in {"mnist_784", "Fashion-MNIST", "CIFAR_10"}
        assert settings == {"version": 1, "as_frame": False, "return_X_y": True}
        return np.arange(140).reshape(70, 2) % 256, np.array(["0", "1"] * 35, dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    parts = load_images(data=data, npz=None)
    assert [X.shape for X, _ in parts] == [(50, 2), (10, 2), (10, 2)]
    assert all(X.dtype == np.float32 and X.min() >= 0 and X.max() <= 1 for X, _ in parts)
    assert all(set(y) == {0, 1} and y.dtype == np.int64 for _, y in parts)
