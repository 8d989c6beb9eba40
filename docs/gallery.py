"""How the examples run in the gallery: in which order, with which options, and on one thread."""

import sys
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

#: Options of each example, in the order of the gallery; what takes longer is made shorter.
OPTIONS = {
    "quickstart": ["--max-iter", "50"],
    "grid_search_stacked": [],
    "tabular": ["--splits", "1", "--plot", "tabular.png"],
    "displays": [],
    "save_and_export": [],
    "larger_than_memory": ["--rows", "300000"],
    "tutorial_mnist": [],
    "tutorial_mnist_modern": ["--epochs", "20"],
    "tutorial_fashion_mnist": ["--epochs", "100"],
    "tutorial_learning_rates": [],
    "tutorial_cifar10": ["--epochs", "100"],
}


def arguments(gallery_conf, script_vars):
    """Arguments of the command line of an example."""
    return OPTIONS[Path(script_vars["src_file"]).stem]


def reset(gallery_conf, file_name):
    """Take one thread, since a build shares its cores, and import `_shared` anew, which sets filters of warnings."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    sys.modules.pop("_shared", None)
