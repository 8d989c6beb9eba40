"""Files that are damaged or hostile on purpose: parts of a valid one, changed at random and saved with a valid checksum."""

import copy
import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from sktorch_mlp._interop.safetensors import _checksum

#: What stands in the place of any value of JSON.
VALUES = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, "", "x", "cpu", "cuda:0", "relu", "$array",
    [], [[]], [1, 2], {}, {"a": 1}, {"$float": "nan"}, {"$float": "inf"}, {"$float": 1}, {"$float": []},
    {"$tuple": [1, 2]}, {"$tuple": {}}, {"$dict": [[1, 2]]}, {"$dict": [[[], 2]]}, {"$dict": [[1]]}, {"$dict": [1]},
    {"$numpy": "int64", "value": 3}, {"$numpy": "int8", "value": 300}, {"$numpy": "float16", "value": 1e9},
    {"$numpy": "object", "value": 1}, {"$numpy": [], "value": 1}, {"$numpy": "bool", "value": 1}, {"$array": "nowhere"},
    {"$array": []}, {"$array": "attributes.coefs_.0", "order": "C"}, {"$array": "attributes.coefs_.0", "dtype": ">f8"},
    {"$strings": ["b", "a"], "shape": [2], "dtype": "object"}, {"$strings": ["a"], "shape": [-1], "dtype": "object"},
    {"$strings": ["a"], "shape": [10**12], "dtype": "<U1"}, {"$strings": ["a"], "shape": [1], "dtype": "<U999999999"},
    {"$strings": [1], "shape": [1], "dtype": "object"}, {"$strings": [], "shape": [0, 10**15], "dtype": "object"},
    {"$strings": ["a"], "shape": [1], "dtype": "<f8"}, {"$other": 1}, {"torch.optim": "SGD"}, {"torch.device": "meta"},
]  # fmt: skip


def read_parts(path):
    """JSON of each entry of the header, and tensors."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    entries = {name: json.loads(metadata[name]) for name in ("class", "versions", "params", "attributes")}
    return entries, tensors


def write_parts(path, entries, tensors, **header):
    """Write what `read_parts` has read, with a checksum."""
    metadata = {"format": "sktorch_mlp", "format_version": "1"}
    metadata |= {name: json.dumps(value) for name, value in entries.items()} | header
    tensors = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata | {"checksum": _checksum(metadata, tensors)})


def places(value, found):
    """All containers of a tree of JSON, with the keys in them."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.append((value, key))
        places(item, found)
    return found


def mutate_json(entries, rng):
    """Change one to three places: other values, missing and further ones, parts of other places."""
    entries = copy.deepcopy(entries)
    for _ in range(rng.integers(1, 4)):
        found = places(entries, [])
        container, key = found[rng.integers(len(found))]
        action = rng.integers(5)
        if action == 0 and container is not entries:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container["other" if rng.integers(2) else "$tuple"] = 1
        elif action == 2:
            other, other_key = found[rng.integers(len(found))]
            container[key] = copy.deepcopy(other[other_key])
        elif action == 3 and isinstance(container[key], int | float):
            container[key] = container[key] + [1, -1, 0.5, 10**9, 10**18][rng.integers(5)]
        else:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return entries


DTYPES = ["bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64"]


def mutate_tensors(tensors, rng):
    """Change a tensor or two: its shape, dtype or values; or its place with another one."""
    tensors, names = dict(tensors), list(tensors)
    for _ in range(rng.integers(1, 3)):
        name, other = (names[i] for i in rng.integers(len(names), size=2))
        tensor = tensors[name]
        changes = [
            lambda tensor: tensor.T,
            lambda tensor: tensor[..., :-1] if tensor.ndim else tensor,
            lambda tensor: tensor[:0] if tensor.ndim else tensor,
            lambda tensor: np.concatenate([tensor, tensor]) if tensor.ndim else tensor,
            lambda tensor: tensor[np.newaxis],
            lambda tensor: tensor.ravel(),
            lambda tensor: np.full(tensor.shape, [np.nan, -1, 0, 1e6, np.inf][rng.integers(5)]),
            lambda tensor: rng.integers(0, 256, max(1, tensor.nbytes), dtype=np.uint8),
            lambda tensor: np.zeros((0, 2**40)),
        ]
        with np.errstate(all="ignore"):
            if rng.integers(8) == 0:
                tensors[name], tensors[other] = tensors[other], tensor
            elif rng.integers(4) == 0:
                tensors[name] = tensor.astype(DTYPES[rng.integers(len(DTYPES))])
            else:
                tensors[name] = changes[rng.integers(len(changes))](tensor)
                tensors[name] = tensors[name].astype(tensor.dtype if rng.integers(2) else tensors[name].dtype)
    return tensors
