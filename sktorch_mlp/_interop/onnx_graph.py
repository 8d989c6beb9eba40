"""Nodes of an ONNX graph, named one by one: what the converters write with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Writes nodes of one floating type into a model of skl2onnx.

    Parameters
    ----------
    scope : Scope
        Gives names.
    container : ModelComponentContainer
        Takes nodes.
    dtype : numpy.dtype
        float32 or float64, of constants and casts where nothing else is said.
    """

    def __init__(self, scope: Any, container: Any, dtype: np.dtype | type) -> None:
        self._scope, self._container, self.dtype = scope, container, np.dtype(dtype)

    def with_dtype(self, dtype: np.dtype | type) -> Graph:
        """The same graph with another floating type."""
        return Graph(self._scope, self._container, dtype)

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node, with attributes and what `add_node` of skl2onnx takes; return the name of its output."""
        output: str = self._scope.get_unique_variable_name(op_type.lower())
        self._write(op_type, inputs, output, attributes)
        return output

    def constant(self, values: Any, dtype: np.dtype | type | None = None) -> str:
        """Write values; return their name. Strings stay strings, all else is cast to `dtype`, or that of the graph."""
        name: str = self._scope.get_unique_variable_name("constant")
        array = np.asarray(values)
        if array.dtype.kind in "UO":
            texts = [str(text).encode() for text in array.ravel()]
            self._container.add_initializer(name, TensorProto.STRING, array.shape, texts)
        else:
            array = np.ascontiguousarray(array, dtype=self.dtype if dtype is None else dtype).reshape(array.shape)
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self._container.add_initializer(name, kind, array.shape, numpy_helper.from_array(array, name))
        return name

    def cast(self, name: str, dtype: np.dtype | type | None = None) -> str:
        """Cast to `dtype`, or that of the graph."""
        to = helper.np_dtype_to_tensor_dtype(self.dtype if dtype is None else np.dtype(dtype))
        return self("Cast", name, to=to)

    def columns(self, name: str, places: Sequence[int] | np.ndarray) -> str:
        """Some columns of a matrix."""
        return self("Gather", name, self.constant(places, np.int64), axis=1)

    def concatenate(self, names: Sequence[str]) -> str:
        """Matrices beside each other; "" for none."""
        if not names:
            return ""
        return names[0] if len(names) == 1 else self("Concat", *names, axis=1)

    def reshape(self, name: str, *shape: int) -> str:
        """Another shape, in which 0 stands for the length of the same axis before."""
        return self("Reshape", name, self.constant(shape, np.int64))

    def output(self, name: str, variable: Any, dtype: np.dtype | type | None = None) -> None:
        """Make a variable of skl2onnx what has this name, cast to a type if one is given."""
        if dtype is None:
            self._write("Identity", [name], variable.full_name, {})
        else:
            self._write("Cast", [name], variable.full_name, {"to": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))})

    def _write(self, op_type: str, inputs: Sequence[str], output: str, attributes: dict[str, Any]) -> None:
        name = self._scope.get_unique_operator_name(op_type)
        self._container.add_node(op_type, list(inputs), output, name=name, **attributes)
