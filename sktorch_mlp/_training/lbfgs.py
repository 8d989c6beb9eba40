"""L-BFGS over all rows, by scipy."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from sktorch_mlp._data.batches import MiniBatches
from sktorch_mlp._nn.tensors import without_gradients

from .fit import Fit
from .progress import TrainingOptions
from .steps import Trainer

#: status of scipy's result after StopIteration
_STOPPED_BY_CALLBACK = 99


@without_gradients
def train_lbfgs(fit: Fit) -> scipy.optimize.OptimizeResult:
    """Minimize the loss of one network over all rows. Parameters change in place.

    An iteration is recorded, and an observer told of it, like an epoch.

    Returns
    -------
    OptimizeResult
        scipy's report: the loss reached, the iterations, the reason for the end; after Ctrl-C that of the
        last iteration, with ``interrupted=True``.
    """
    network, observer = fit.network, fit.observer
    parameters = network.flat.detach()[0]
    minibatches = MiniBatches(fit.data.train, [fit.shuffler], fit.n_rows)
    trainer = Trainer(network, fit.loss, minibatches, [fit.options])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        parameters.copy_(torch.from_numpy(x))
        ((value,),) = trainer.run_epochs()
        return value, _to_float64(network.grad[0])

    began = time.perf_counter()

    def end_iteration(x: np.ndarray, value: float) -> bool:
        nonlocal began
        seconds, began = time.perf_counter() - began, time.perf_counter()
        epoch = fit.progress.n_epochs + 1
        fit.progress.records.append({"epoch": epoch, "loss": value, "seconds": seconds})
        if observer is None:
            return False
        observer.on_epoch_begin()
        parameters.copy_(torch.from_numpy(x))
        return observer.on_epoch_end(network, 0)

    result = minimize_lbfgs(objective, _to_float64(parameters), fit.options, end_iteration)
    parameters.copy_(torch.from_numpy(result.x))
    return result


def _to_float64(values: Tensor) -> np.ndarray:
    return values.cpu().to(torch.float64, copy=True).numpy()  # MPS cannot copy and cast in one call


def minimize_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    options: TrainingOptions,
    on_iteration: Callable[[np.ndarray, float], bool] = lambda x, value: False,
) -> scipy.optimize.OptimizeResult:
    """Minimize an objective that gives its value and gradient, with scikit-learn's options.

    Parameters
    ----------
    objective : callable
        ``objective(x) -> (value, gradient)`` on float64 arrays.
    start : ndarray of shape (n_parameters,)
    options : TrainingOptions
        Of which `max_iter`, `max_fun` and `tol` are used; `tol` bounds the largest component of the projected
        gradient.
    on_iteration : callable, default=nothing
        ``on_iteration(x, value)`` is called after each iteration; True to stop.

    Returns
    -------
    OptimizeResult
    """
    reached = scipy.optimize.OptimizeResult(x=start, fun=np.inf, nit=0, success=False, interrupted=True)
    of_callback: list[StopIteration] = []  # which scipy would take for its own

    def record(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        reached.update(x=intermediate_result.x.copy(), fun=intermediate_result.fun, nit=reached.nit + 1)
        try:
            stops = on_iteration(reached.x, float(reached.fun))
        except StopIteration as error:
            of_callback.append(error)
            raise
        if stops:
            raise StopIteration

    scipy_options = {"maxiter": options.max_iter, "maxfun": options.max_fun, "gtol": options.tol}
    try:
        result = scipy.optimize.minimize(
            objective, start, method="L-BFGS-B", jac=True, options=scipy_options, callback=record
        )
    except KeyboardInterrupt:
        return reached
    if of_callback:
        raise of_callback[0]
    result.interrupted = False
    if result.status == _STOPPED_BY_CALLBACK:
        result.status = 0  # as asked
    return result
