"""Converters for skl2onnx: what it calls to write an estimator into the graph of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)

from .description import Ensemble, Network, Outputs
from .onnx_graph import Graph
from .onnx_networks import write_logits, write_outputs
from .onnx_tables import Input, write_ensemble

#: Describes a fitted estimator.
Describe = Callable[[Any], Network | Ensemble]

#: Options of classifiers that skl2onnx handles itself, but for the classes of "nocl".
_CLASSIFIER_OPTIONS = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]}

#: Logits in place of probabilities. skl2onnx's name is "raw_scores", but what has an option of that name is taken by its
#: calibrators and its one-vs-rest for an estimator that scikit-learn asks for scores, which it does not ask ours for.
_LOGITS_OPTION = {"logits": [False, True]}


def register(estimator_class: type, describe: Describe, *, is_classifier: bool, has_logits: bool = False) -> None:
    """Register a converter for the estimators of a class.

    Parameters
    ----------
    estimator_class : type
    describe : callable
    is_classifier : bool
    has_logits : bool, default=False
        Whether the option "logits" makes sense.
    """
    converter = _Converter(describe, is_classifier=is_classifier, has_logits=has_logits)
    options = _CLASSIFIER_OPTIONS | (_LOGITS_OPTION if has_logits else {}) if is_classifier else None
    update_registered_converter(
        estimator_class, f"Sktorch{estimator_class.__name__}", converter.set_types, converter.convert, options=options
    )


class _Converter:
    """Shape calculator and converter of one class of estimators."""

    def __init__(self, describe: Describe, *, is_classifier: bool, has_logits: bool) -> None:
        self._describe, self._is_classifier, self._has_logits = describe, is_classifier, has_logits

    def set_types(self, operator: Any) -> None:
        """Set types and shapes of the outputs."""
        described = self._describe(operator.raw_operator)
        n_rows = operator.inputs[0].get_first_dimension()
        numbers = DoubleTensorType if _float_dtype(operator) == np.float64 else FloatTensorType
        if not self._is_classifier:
            operator.outputs[0].set_type(numbers([n_rows, _n_outputs(described)]))
            return
        labels = self._labels(operator.scope_inst, operator, described.outputs)
        label, probabilities = operator.outputs
        shape = [n_rows, len(labels)] if described.outputs.is_multilabel else [n_rows]
        label.set_type((StringTensorType if labels.dtype.kind == "U" else Int64TensorType)(shape))
        probabilities.set_type(numbers([n_rows, len(labels)]))

    def convert(self, scope: Any, operator: Any, container: Any) -> None:
        """Write the nodes of an estimator."""
        described, dtype = self._describe(operator.raw_operator), _float_dtype(operator)
        given = _inputs(operator, described)
        has_logits = self._has_logits and scope.get_options(operator.raw_operator, {"logits": False})["logits"]
        if isinstance(described, Ensemble):
            graph = Graph(scope, container, np.float64)
            outputs = write_ensemble(graph, described, given)
        else:
            graph = Graph(scope, container, dtype)
            outputs = _write_network(graph, described, given, activate=not has_logits)
        if not self._is_classifier:
            graph.output(outputs, operator.outputs[0], dtype)
            return
        label, probabilities = operator.outputs
        meaning = described.outputs
        if meaning.is_binary:
            outputs = _two_columns(graph, outputs, is_logit=has_logits)
        elif isinstance(described, Ensemble) and not meaning.is_multilabel:
            total = graph("MatMul", outputs, graph.constant(np.ones((_n_outputs(described), 1))))
            outputs = graph("Div", outputs, total)
        graph.output(outputs, probabilities, dtype)
        if meaning.is_multilabel:
            threshold = graph.constant(0.0 if has_logits else 0.5)
            graph.output(graph("Greater", outputs, threshold), label, np.int64)
            return
        labels = graph.constant(self._labels(scope, operator, meaning), np.int64)
        graph.output(graph("Gather", labels, graph("ArgMax", outputs, axis=1, keepdims=0)), label)

    def _labels(self, scope: Any, operator: Any, outputs: Outputs) -> np.ndarray:
        """Labels of the classes as ONNX has them: integers or strings.

        Raises
        ------
        ValueError
            If they are neither, or only one.
        """
        classes = outputs.classes
        assert classes is not None
        if len(classes) < 2:
            raise ValueError(
                f"The classifier knows one class, {classes.tolist()[0]!r}, for which there are no probabilities in ONNX."
            )
        if scope.get_options(operator.raw_operator, {"nocl": False})["nocl"]:
            return np.arange(len(classes))
        if all(isinstance(label, str) for label in classes):
            return classes.astype(str)
        if classes.dtype.kind in "iubf" and np.array_equal(classes, classes.astype(np.int64)):
            return classes.astype(np.int64)
        raise ValueError(f"ONNX has labels that are integers or strings, but the classes are {classes!r}.")


def _float_dtype(operator: Any) -> np.dtype:
    """Precision of predictions: that of the first input, as everywhere in skl2onnx."""
    return np.dtype(np.float64 if isinstance(operator.inputs[0].type, DoubleTensorType) else np.float32)


def _n_outputs(described: Network | Ensemble) -> int:
    last = described.stacks[0].intercepts[-1] if isinstance(described, Ensemble) else described.intercepts[-1]
    return int(last.shape[-1])


def _n_columns(described: Network | Ensemble) -> int:
    return described.columns.n_columns if isinstance(described, Ensemble) else described.layer_units[0]


def _inputs(operator: Any, described: Network | Ensemble) -> list[Input]:
    """Inputs of a graph, each with the columns that it has.

    Raises
    ------
    ValueError
        If one has the name of a feature that stood elsewhere in fit.
    """
    kinds = {StringTensorType: "U", BooleanTensorType: "b", DoubleTensorType: "f", FloatTensorType: "f"}
    inputs = []
    for variable in operator.inputs:
        shape = variable.type.shape
        n_columns = shape[1] if shape is not None and len(shape) > 1 else None
        if not isinstance(n_columns, int):
            n_columns = _n_columns(described) if len(operator.inputs) == 1 else 1
        inputs.append(Input(variable.full_name, kinds.get(type(variable.type), "i"), n_columns))
    if len(inputs) > 1:
        _check_order([variable.raw_name for variable in operator.inputs], inputs, operator.raw_operator)
    return inputs


def _check_order(names: list[str], inputs: list[Input], estimator: Any) -> None:
    """Check that inputs with names of features stand where these stood in fit. Others may have any name."""
    features = list(getattr(estimator, "feature_names_in_", ()))
    place = 0
    for name, each in zip(names, inputs, strict=True):
        if name in features and features.index(name) != place:
            raise ValueError(
                f"The input {name!r} is column {place}, but in fit it was column {features.index(name)}. Give the inputs the "
                f"order of feature_names_in_: {features}."
            )
        place += each.n_columns


def _write_network(graph: Graph, network: Network, given: list[Input], *, activate: bool) -> str:
    n_given = sum(each.n_columns for each in given)
    if n_given != network.layer_units[0]:
        raise ValueError(f"The inputs have {n_given} columns, but X in fit had {network.layer_units[0]}.")
    if any(each.kind == "U" for each in given):
        raise ValueError("An input has strings, but X in fit had numbers alone.")
    logits = write_logits(graph, network, graph.concatenate([graph.cast(each.name) for each in given]))
    return write_outputs(graph, network.outputs.activation, logits) if activate else logits


def _two_columns(graph: Graph, outputs: str, *, is_logit: bool) -> str:
    """Probabilities of both classes from that of the second; or logits whose softmax they are."""
    if is_logit:
        return graph.concatenate([graph("Sub", outputs, outputs), outputs])
    return graph.concatenate([graph("Sub", graph.constant(1), outputs), outputs])
