"""`save` and `load`: the same estimator from a file, and a ValueError for whatever else a file has."""

import os
import pickle
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, load
from sktorch_mlp.callbacks import TimeLimit
from tests.estimators.fits import CODE, FITS, FRAME, LEVELS, STORABLE, assert_same_model, fit, fitted, rows_of
from tests.estimators.helpers import LABELS, NUMBERS, X, ours, outputs, weights_of
from tests.estimators.tables import SMALL
from tests.interop.mutations import mutate_json, mutate_tensors, read_parts, write_parts

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def through_file(estimator, path):
    estimator.save(path)
    return load(path)


@pytest.mark.parametrize("name", STORABLE)
def test_a_file_gives_the_same_estimator(name, path):
    model, rows = fitted(name), rows_of(name)
    loaded = through_file(model, path)
    assert_same_model(loaded, model, rows)
    check_is_fitted(loaded)
    assert clone(loaded).get_params().keys() == model.get_params().keys()
    assert_same_model(pickle.loads(pickle.dumps(loaded)), model, rows)
    assert_same_model(through_file(loaded, str(path)), model, rows)


@pytest.mark.parametrize("name", ["pack", "waves", "labels of a table"])
def test_a_file_has_all_of_an_ensemble(name, path):
    model, rows = fitted(name), rows_of(name)
    loaded = through_file(model, path)
    assert_array_equal(loaded.oof_prediction_, model.oof_prediction_)
    assert_array_equal(loaded.estimator_weights_, model.estimator_weights_)
    assert len(loaded.estimators_) == len(model.estimators_)
    for own, other in zip(loaded.estimators_, model.estimators_, strict=True):
        assert_same_model(own, other, rows)
        assert_same_model(through_file(own, path), other, rows)


def _next_epochs(model, rows, y):
    if model.solver == "lbfgs" or model.early_stopping:
        return model.set_params(warm_start=True).fit(rows, y)
    return model.partial_fit(rows, y).partial_fit(rows, y)


@pytest.mark.parametrize("name", STORABLE[: STORABLE.index("ensemble")])
def test_training_goes_on_exactly(name, path):
    _, rows, y = FITS[name]
    model = fit(name)
    loaded = _next_epochs(through_file(model, path), rows, y)
    assert_array_equal(weights_of(loaded), weights_of(_next_epochs(model, rows, y)))
    assert loaded.get_params().get("n_iter_no_change") == model.n_iter_no_change
    if hasattr(model, "loss_curve_"):
        assert loaded.loss_curve_ == model.loss_curve_
        assert [record["epoch"] for record in loaded.history_] == [record["epoch"] for record in model.history_]


CLASSES = {
    "int8": np.array([-3, 4, 100], "i1"), "uint8": np.array([0, 1, 255], "u1"), "int16": np.array([1, 2, 300], "i2"),
    "int32": np.arange(3, dtype="i4"), "int64": np.array([-(2**62), 0, 2**62]), "uint64": np.arange(3, dtype="u8"),
    "big endian": np.arange(3, dtype=">i4"), "float64": np.array([0.0, 1.0, 2.0]), "float32": np.arange(3, dtype="f4"),
    "strings": np.array(["a", "bc", "ä"]), "wide strings": np.array(["a", "bc", "d"], "U20"),
    "objects": np.array(["a", "bc" * 50, "🙂"], object), "bools": np.array([False, True, True]),
    "two": np.array([1, 2, 2]), "one": np.array(["a", "a", "a"], object),
}  # fmt: skip


@pytest.mark.parametrize("class_", [MLPTorchClassifier, TabularMLPClassifier])
@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_every_dtype(class_, name, path):
    model = class_(hidden_layer_sizes=3, max_iter=2, random_state=0).fit(X, CLASSES[name][LABELS])
    loaded = through_file(model, path)
    assert loaded.classes_.dtype == model.classes_.dtype
    assert_same_model(loaded, model, X)


def test_names_of_features(path):
    frame = pd.DataFrame(X, columns=["a", "b", "ä", "d"])
    model = ours("classifier").fit(frame, LABELS)
    loaded = through_file(model, path)
    assert_array_equal(loaded.feature_names_in_, model.feature_names_in_, strict=True)
    assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"a": "b", "b": "a"}))


def test_weights_that_users_have_written(path):
    model = ours("regressor").fit(X, NUMBERS)
    model.coefs_ = [np.round(10 * coef).astype(int) for coef in model.coefs_]
    model.intercepts_[0][:] = np.nan
    loaded = through_file(model, path)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert np.isnan(loaded.intercepts_[0]).all()
    assert loaded.coefs_[0].dtype == int


def test_requests_of_metadata(path):
    with sklearn.config_context(enable_metadata_routing=True):
        model = ours("classifier").set_fit_request(sample_weight="weights", X_val=True).fit(X, LABELS)
        loaded = through_file(model, path)
        assert str(loaded.get_metadata_routing()) == str(model.get_metadata_routing())


def test_a_model_of_another_device_predicts_on_the_cpu_with_a_warning(path):
    model = ours("classifier", device="cuda:1", dropout=0.3)
    model.__setstate__(fit("batch").__getstate__() | {"device": "cuda:1"})
    model.device_ = torch.device("cuda", 1)
    model.save(path)
    with pytest.warns(UserWarning, match="'cuda:1', which is not available here. It will predict on the CPU"):
        loaded = load(path)
    assert_array_equal(loaded.predict_proba(X), fitted("batch").predict_proba(X))
    assert loaded.device == "cuda:1"


def test_sizes(path):
    """The weights once, moments where training can go on, and some thousand bytes for all else."""
    for solver, n_copies in (("lbfgs", 1), ("sgd", 2), ("adam", 3)):
        model = MLPTorchClassifier((2000,), max_iter=2, solver=solver).fit(X, LABELS)
        model.save(path)
        assert path.stat().st_size < n_copies * weights_of(model).nbytes + 8000


# What cannot be saved -----------------------------------------------------------------


@pytest.mark.parametrize("name", CODE)
def test_code_and_random_states_are_errors_that_name_the_parameter(name, path):
    parameter = CODE[name]
    message = rf"^{parameter}=.* cannot be saved: .* no code\. .*, or pickle the estimator\.$"
    with pytest.raises(ValueError, match=message):
        fitted(name).save(path)
    assert not path.exists()


def test_the_remedy_works(path):
    model = fit("RandomState").set_params(random_state=0)
    assert_array_equal(through_file(model, path).predict(X), model.predict(X))
    loss = torch.nn.functional.cross_entropy
    model = ours("classifier", loss=loss).fit(X, LABELS).set_params(loss="log_loss")
    assert_array_equal(through_file(model, path).predict_proba(X), model.predict_proba(X))
    model = ours("classifier").set_callbacks(TimeLimit(10)).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"Callbacks cannot be saved, .* call set_callbacks\(\)\."):
        model.save(path)
    assert_array_equal(through_file(model.set_callbacks(), path).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"activation": (torch.tanh,)}, "activation="),
        ({"scoring": lambda estimator, X, y: 0.0}, "scoring="),
        ({"callbacks": [object()]}, "callbacks="),
        ({"class_weight": {0: 1, 1: 2, (1, 2): 3j}}, "class_weight="),
        ({"alpha": -1.0}, "'alpha' parameter .* must be"),
        ({"hidden_layer_sizes": ["a"]}, r"params\.hidden_layer_sizes should be positive integers, but is \['a'\]"),
        ({"dropout": [0.1, 0.2]}, "dropout=.* has 2 values, but there are 1 hidden layers"),
        ({"solver": torch.optim.SGD}, "solver=.*torch.optim.*by its name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parameters_that_were_set_after_the_fit(params, match, path):
    model = ours("classifier").fit(X, LABELS).set_params(**params)
    with pytest.raises(ValueError, match=match):
        model.save(path)


class _Own(MLPTorchRegressor):
    """A class of a user."""


def test_what_else_is_no_whole_estimator_of_ours(path):
    with pytest.raises(NotFittedError):
        MLPTorchClassifier().save(path)
    with pytest.raises(ValueError, match="_Own is a subclass"):
        _Own(max_iter=2, random_state=0).fit(X, NUMBERS).save(path)
    with pytest.raises(ValueError, match=r"class of torch\.optim cannot be saved"):
        fit("torch.optim").set_params(solver="adam").save(path)
    model = ours("classifier").fit(X, LABELS)
    model.note_ = "mine"
    with pytest.raises(ValueError, match=r"unknown entries.*note_"):
        model.save(path)
    model = ours("classifier").fit(X, LABELS)
    model.coefs_[1] = model.coefs_[1][:-1]
    with pytest.raises(ValueError, match=r"coefs_ and intercepts_ have the shapes .* which do not fit together"):
        model.save(path)
    assert os.listdir(path.parent) == []


def test_best_estimators_of_a_search_can_be_saved(path):
    search = GridSearchCV(ours("classifier"), {"alpha": np.logspace(-4, -2, 2)}, cv=2).fit(X, LABELS)
    model = search.best_estimator_
    loaded = through_file(model, path)
    assert type(loaded.alpha) is type(model.alpha) is np.float64
    assert_same_model(loaded, model, X)


# Damaged and hostile files -------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch", "sgd", "lbfgs", "pack", "waves", "sparse table"])
def test_a_file_that_was_changed_is_loaded_or_a_value_error(name, path):
    fitted(name).save(path)
    parts = read_parts(path)
    rng = np.random.default_rng(list(name.encode()))
    refusals = []
    for i in range(150):
        entries, tensors = parts
        if i % 3:
            entries = mutate_json(entries, rng)
        else:
            tensors = mutate_tensors(tensors, rng)
        write_parts(path, entries, tensors)
        try:
            loaded = load(path)
        except ValueError as error:
            refusals.append(str(error))
            continue
        with suppress(ValueError, UserWarning):  # by other names of features, say
            loaded.predict(rows_of(name)[:5])
    assert len(refusals) > 90
    assert all(refusal.startswith(f"{str(path)!r} cannot be loaded: ") for refusal in refusals)


def _changed(entries, keys, value):
    *inner, last = keys
    for key in inner:
        entries = entries[key]
    entries[last] = value


HUGE = {
    "layers": (["attributes", "_ensemble", "stacks", 0, "layer_units"], [4, 10**9, 3]),
    "levels": (["attributes", "_ensemble", "stacks", 0, "embedding", "n_levels"], [3, 10**12]),
    "one-hot": (["attributes", "_ensemble", "stacks", 0, "embedding", "max_one_hot"], 10**12),
    "waves": (["attributes", "_ensemble", "stacks", 0, "embedding", "n_frequencies"], 10**7),
    "width": (["attributes", "_ensemble", "stacks", 0, "embedding", "width"], 2**24),
    "numbers": (["attributes", "_ensemble", "stacks", 0, "embedding", "n_numbers"], 2**24),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_takes_little_memory(name, path):
    fitted("ensemble").save(path)
    entries, tensors = read_parts(path)
    _changed(entries, *HUGE[name])
    write_parts(path, entries, tensors)
    if name == "width":  # of vectors that there are none of: all levels are one-hot
        load(path).predict(FRAME)
    else:
        with pytest.raises(ValueError, match="should be"):
            load(path)


STATE = ["attributes", "_state"]
IMPOSSIBLE = {
    "best_n_iter_": (["attributes", "best_n_iter_"], 5, r"an integer in \[0, 4\], but is 5"),
    "beta_1": ([*STATE, "optimizer", "beta_1"], [1.0], r"a number in \[0, 0\.99\d*\], but is 1\.0"),
    "beta_2": ([*STATE, "optimizer", "beta_2"], [1.5], r"a number in \[0, 0\.99\d*\], but is 1\.5"),
    "epoch": ([*STATE, "progress", "records", 0, "epoch"], ["a"] * 4, "a number in .*, but is 'a'"),
    **{
        f"hidden_layer_sizes={sizes}": (["params", "hidden_layer_sizes"], sizes, "positive integers, but is")
        for sizes in (["a"], [[1]], [1e308], [0], True, [[1], [1, 2]])
    },
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_values_that_would_be_errors_later_are_refused(name, path):
    fitted("adam").save(path)
    entries, tensors = read_parts(path)
    keys, value, match = IMPOSSIBLE[name]
    _changed(entries, keys, value)
    tensors.pop("attributes._state.progress.records.0.epoch" if "records" in keys else "", None)
    write_parts(path, entries, tensors)
    with pytest.raises(ValueError, match=f"{name.partition('=')[0]}.* should be {match}"):
        load(path)


def test_moments_of_another_size_are_refused(path):
    """PyTorch's fused Adam does not look at the shapes: it would write beyond those that are too short."""
    fitted("adam").save(path)
    entries, tensors = read_parts(path)
    name = "attributes._state.optimizer.second_moment"
    write_parts(path, entries, tensors | {name: tensors[name][:, :-1]})
    with pytest.raises(ValueError, match=r"_state\.optimizer\.second_moment should be an array of shape \(1, \d+\)"):
        load(path)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"class": "Pipeline"}, r"the header\.class should be one of"),
        ({"class": "MLPTorchRegressor"}, "params has the unknown entries"),
        ({"class": ["x"]}, r"the header\.class should be one of"),
        ({"more": 1}, r"the header has the unknown entries \['more'\]"),
        ({"params": []}, "params should be a dict"),
        ({"attributes": {}}, "attributes lacks"),
    ],
)
def test_errors_say_what_is_wrong(entries, match, path):
    fitted("adam").save(path)
    parts, tensors = read_parts(path)
    write_parts(path, parts | entries, tensors if "attributes" not in entries else {})
    with pytest.raises(ValueError, match=f"^{str(path)!r} cannot be loaded: {match}"):
        load(path)


def test_a_parameter_that_an_earlier_release_did_not_have_gets_its_default(path):
    model = ours("classifier").fit(X, LABELS)
    model.save(path)
    parts, tensors = read_parts(path)
    for name in ("device", "dropout", "activation", "callbacks"):
        del parts["params"][name]
    write_parts(path, parts, tensors)
    assert_same_model(load(path), model, X)


def test_other_files_are_refused(path):
    path.write_bytes(pickle.dumps(StandardScaler()))
    with pytest.raises(ValueError, match="cannot be loaded: it is no file of the safetensors format"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(path.with_name("nowhere"))


# Other processes -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_opens_in_another_process(path):
    model = fitted("pack")
    model.save(path)
    np.save(path.with_suffix(".npy"), outputs(model, FRAME))
    FRAME.to_pickle(path.with_suffix(".pickle"))
    code = """
import sys, numpy as np, pandas as pd, sktorch_mlp
path = sys.argv[1]
model = sktorch_mlp.load(path + ".safetensors")
np.testing.assert_array_equal(model.predict_proba(pd.read_pickle(path + ".pickle")), np.load(path + ".npy"))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(path.with_suffix(""))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_load_says_where_it_is_public():
    assert sktorch_mlp.load is load
    assert load.__module__ == "sktorch_mlp"


def test_a_small_ensemble_is_a_small_file(path):
    TabularMLPClassifier(**SMALL).fit(FRAME, LEVELS).save(path)
    assert path.stat().st_size < 60_000
