"""scikit-learn's estimator checks, strictly: ours may fail only what scikit-learn's own MLP fails."""

import os
import subprocess
import sys
from functools import partial
from unittest import SkipTest

import pytest
import torch
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import estimator_checks
from sklearn.utils._testing import assert_allclose_dense_sparse
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import estimator_checks_generator

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._data.compat import cpu_has_bfloat16

# The checks fit on data of all kinds for few epochs, and provoke warnings of their own.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("checks_need_a_gpu")]


class MLPClassifierWithClassWeight(MLPClassifier):
    """scikit-learn's MLP with weights of classes by way of weights of samples."""

    def __init__(self, class_weight=None, **params):
        self.class_weight = class_weight
        super().__init__(**params)

    @classmethod
    def _get_param_names(cls):
        return sorted([*MLPClassifier._get_param_names(), "class_weight"])

    def fit(self, X, y, sample_weight=None):
        if self.class_weight is not None:
            sample_weight = compute_sample_weight(self.class_weight, y)
        return super().fit(X, y, sample_weight)


REFERENCES = {MLPTorchClassifier: MLPClassifierWithClassWeight, MLPTorchRegressor: MLPRegressor}


def cross_entropy(logits, y):
    if logits.ndim == 2 and y.ndim == 1:
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")


smooth_l1_loss = partial(torch.nn.functional.smooth_l1_loss, reduction="none")
softplus = torch.nn.functional.softplus
RMSprop = {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5}}
SHORT = {"max_iter": 30}  # 200 epochs would only take longer
# The defaults, and mixtures that together have each solver, each kind of activation and of loss, and each feature. Of
# a choice that scikit-learn lacks its own MLP says nothing, so these are not mixed with what makes that fail.
LOW_PRECISION = "bfloat16" if cpu_has_bfloat16() else "float32"
CLASSIFIERS = {
    "default": {},
    "sgd": {"solver": "sgd", "learning_rate": "one_cycle", "activation": "tanh", "gradient_clip_norm": 1.0} | SHORT,
    "lbfgs": {"solver": "lbfgs", "activation": softplus, "label_smoothing": 0.1, "weight_init": "he_normal"} | SHORT,
    "RMSprop": RMSprop | {"hidden_layer_sizes": (20, 10), "activation": ["elu", "mish"], "loss": cross_entropy} | SHORT,
    "batch norm": {"normalization": "batch", "class_weight": "balanced", "warm_start": True, "max_iter": 20},
    "stopping": {"early_stopping": True, "scoring": "loss", "batch_size": 8, "shuffle": False, "max_iter": 20},
}
REGRESSORS = {
    "default": {},
    "adamw": {"solver": "adamw", "learning_rate": "cosine", "loss": "quantile", "quantile": 0.6} | SHORT,
    "lbfgs": {"solver": "lbfgs", "loss": smooth_l1_loss, "activation": "gelu", "normalization": "layer"} | SHORT,
    "dropout": {"dropout": 0.2, "loss": "huber", "hidden_layer_sizes": (50, 50)} | SHORT,
    "low precision": {"dtype": LOW_PRECISION, "loss": "absolute_error"} | SHORT,
    "warm start": {"loss": "poisson", "warm_start": True, "max_iter": 20},
}
# Low precision is for the regressor: the checks compare the predictions of classifiers at 1e-9.
ESTIMATORS = {f"classifier {name}": MLPTorchClassifier(**params) for name, params in CLASSIFIERS.items()} | {
    f"regressor {name}": MLPTorchRegressor(**params) for name, params in REGRESSORS.items()
}

# Why a check cannot pass with a feature.
EXPECTED = [
    # parameter, value, part of the name of the check, reason
    ("dropout", 0.2, "sample_weight_equivalence", "masks are drawn for rows, and rows that are repeated get others"),
    ("dtype", "float32", "sample_weight_equivalence_on_sparse_data", "compares at 1e-7, about the resolution"),
    ("dtype", "bfloat16", "sample_weight_equivalence", "compares at 1e-7; bfloat16 has a resolution of 8e-3"),
    ("class_weight", "balanced", "partial_fit", "as in SGDClassifier, partial_fit cannot balance rows it has not seen"),
    ("class_weight", "balanced", "fit_score_takes_y", "calls partial_fit as well"),
    ("class_weight", "balanced", "n_features_in_after_fitting", "calls partial_fit as well"),
]
# Checks that cannot run: those of the array API need an environment variable (see test_dispatch.py) and devices, one a
# method that MLPClassifier lacks as well.
SKIPPED = {
    "check_array_api_input",
    "check_array_api_mixed_inputs",
    "check_array_api_same_namespace",
    "check_classifiers_multilabel_output_format_decision_function",
}
#: The check of estimators without array API. Ours get the stricter one of the others.
ONLY_NUMPY = "check_array_api_input(array_namespace=numpy, expect_only_array_outputs=False)"
ERRORS = (AssertionError, ValueError, TypeError)


def checks_of(estimator):
    """The checks that scikit-learn makes for an estimator, by names that differ."""
    checks = {}
    for _, check in estimator_checks_generator(estimator):
        options = ", ".join(option_of(name, value) for name, value in check.keywords.items())
        checks[f"{name_of(check)}({options})" if options else name_of(check)] = check
    return checks


def option_of(name, value):
    """An option as the name of a check has it. pytest replaces names of more than 100 characters by numbers."""
    return f"{name.removesuffix('_ns_and_device')}={':'.join(map(str, value)) if isinstance(value, tuple) else value}"


def name_of(check):
    return check.func.__name__


CHECKS = {name: checks_of(estimator) for name, estimator in ESTIMATORS.items()}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in CHECKS.items() for check in checks])
def test_a_check(name, check, monkeypatch):
    estimator, check = clone(ESTIMATORS[name]), CHECKS[name][check]
    if estimator.dtype == "bfloat16" and "sample_order_invariance" in name_of(check):
        # Compares at 1e-7, whatever the dtype. Predictions are float32, which has a resolution of 1.2e-7.
        compare = partial(assert_allclose_dense_sparse, rtol=1e-6)
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", compare)
    expected = [
        reason
        for parameter, value, part, reason in EXPECTED
        if getattr(estimator, parameter, None) == value and part in name_of(check)
    ]
    if expected:
        with pytest.raises(ERRORS):
            check(estimator)
        pytest.xfail(expected[0])
    try:
        check(estimator)
    except SkipTest:
        assert name_of(check) in SKIPPED
        raise
    except ERRORS as error:
        if name.endswith("default") or type(error) is not error_of_scikit_learn(estimator, check):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        pytest.xfail(f"scikit-learn's own MLP fails it as well: {reason}")


def error_of_scikit_learn(estimator, check):
    """The class of error with which scikit-learn's MLP fails the check in the same configuration; None if it passes."""
    reference = REFERENCES[type(estimator)]
    params = {name: value for name, value in estimator.get_params().items() if name in reference().get_params()}
    try:
        check.func(reference.__name__, reference(**params), *check.args[1:], **check.keywords)
    except ERRORS as error:
        return type(error)
    return None


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_there_are_as_many_checks_as_for_scikit_learn(kind):
    ours = CHECKS[f"{kind} default"]
    theirs = checks_of(REFERENCES[type(ESTIMATORS[f"{kind} default"])]())
    assert set(theirs) - {ONLY_NUMPY} <= set(ours)
    assert "check_array_api_input(array_namespace=numpy, device_name=None, dtype_name=None)" in ours
    assert len(ours) >= 58
    assert all(len(checks) == len(ours) for name, checks in CHECKS.items() if name.startswith(kind))


def test_the_mixtures_have_all_features():
    """A new parameter or choice has to be in one of them."""
    used = {
        name
        for estimator in ESTIMATORS.values()
        for name, value in estimator.get_params().items()
        if value is not type(estimator)().get_params()[name]
    }
    of_arithmetic = {
        "alpha", "learning_rate_init", "power_t", "tol", "momentum", "nesterovs_momentum", "validation_fraction",
        "beta_1", "beta_2", "epsilon", "n_iter_no_change", "max_fun", "weight_decay", "warmup_fraction",
    }  # fmt: skip
    set_by_the_checks = {"random_state", "verbose", "callbacks", "device"}
    names = {*MLPTorchClassifier().get_params(), *MLPTorchRegressor().get_params()}
    assert names - used == of_arithmetic | set_by_the_checks
    losses = {estimator.loss for estimator in ESTIMATORS.values() if isinstance(estimator.loss, str)}
    assert losses == {"log_loss", "squared_error", "absolute_error", "huber", "quantile", "poisson"}
    solvers = {estimator.solver for estimator in ESTIMATORS.values()}
    assert solvers == {"adam", "adamw", "sgd", "lbfgs", torch.optim.RMSprop}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLPTorchClassifier", "MLPTorchRegressor"])
def test_check_estimator_in_a_fresh_process(name):
    """As the documentation of scikit-learn has it; in this process other tests may have changed something."""
    code = f"""
from sklearn.utils.estimator_checks import check_estimator
import sktorch_mlp
check_estimator(sktorch_mlp.{name}())
"""
    on_the_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=on_the_cpu)
