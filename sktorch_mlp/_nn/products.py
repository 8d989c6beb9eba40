"""Products of matrices on one thread or on several, which give the same bits: that is tried out, not assumed.

Where the threads of the BLAS would sum in another order, the product is computed in as many parts as there are threads, as
a stack of products of which each has one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import onednn
from .compat import has_own_kernels
from .threads import ThreadChoice, call_on, most_threads, share

#: Rows and columns from which a product, or a part of it, may be shared. Narrower ones are divided along the axis that is
#: summed over, or not, depending on where their memory begins.
_WIDE = 32

#: Bytes between two addresses that are alike to the BLAS.
_ALIGNMENT = 64

#: How often a division is tried, and that of the BLAS, in which it may be one element alone that is summed in another order:
#: a trial of 50 terms shows that in 8 of 10 cases, one of 800 in nearly all. Large products are tried three times.
_TRIALS, _TRIALS_OF_THE_BLAS, _TRIED_OPERATIONS = 2, 10, 100_000_000

#: Shape and strides of a matrix.
_MatrixLayout = tuple[tuple[int, ...], tuple[int, ...]]

#: ``divide(product, n_threads)`` gives the same product, or None where it cannot be divided so.
_Division = Callable[["Product", int], "Product | None"]


class Product(NamedTuple):
    """``a @ b + summand`` of two matrices, or of two stacks of them, and where it goes.

    Attributes
    ----------
    a : Tensor of shape ([n_networks,] n_rows, n_inner)
    b : Tensor of shape ([n_networks,] n_inner, n_columns)
    out : Tensor of shape ([n_networks,] n_rows, n_columns)
    summand : Tensor of shape ([n_networks,] n_rows or 1, n_columns or 1), default=None
    by_onednn : bool, default=False
        Whether oneDNN computes it, and not the BLAS.
    """

    a: Tensor
    b: Tensor
    out: Tensor
    summand: Tensor | None = None
    by_onednn: bool = False

    @property
    def n_operations(self) -> int:
        """Multiply-adds, of float64 twice as many."""
        return self.a.numel() * self.b.shape[-1] * self.a.itemsize // 4

    def bind(self) -> Callable[[], Any]:
        """Return a call that computes it."""
        if self.by_onednn:
            return partial(onednn.multiply_into, self.a, self.b, self.out, self.summand)
        is_stack = self.out.ndim > 2
        if self.summand is None:
            return partial(torch.bmm if is_stack else torch.mm, self.a, self.b, out=self.out)
        return partial(torch.baddbmm if is_stack else torch.addmm, self.summand, self.a, self.b, out=self.out)

    def bind_transposed(self) -> Callable[[], Any]:
        """Return a call that computes the product of the transposed matrices, and copies it."""
        transposed = self.transposed()
        result, summand = self.out.new_empty(transposed.out.shape), transposed.summand
        if summand is not None:
            summand = summand.squeeze(0)  # a row, which is added by the same kernel
        compute, out = transposed._replace(out=result, summand=summand).bind(), self.out
        return lambda: (compute(), out.copy_(result.mT))

    def transposed(self) -> Product:
        """The same of the transposed matrices."""
        summand = None if self.summand is None else self.summand.mT
        return Product(self.b.mT, self.a.mT, self.out.mT, summand, self.by_onednn)

    def by_rows(self, n_parts: int) -> Product | None:
        """The same as a stack of products of parts of the rows; None where these cannot be equal, or would be narrow."""
        n_rows = len(self.out)
        if self.by_onednn or self.out.ndim > 2 or n_rows % n_parts or n_rows < n_parts * _WIDE:
            return None
        summand = self.summand
        if summand is not None and len(summand) > 1:
            summand = _in_parts(summand, n_parts)
        return Product(
            _in_parts(self.a, n_parts), self.b.expand(n_parts, -1, -1), _in_parts(self.out, n_parts), summand
        )

    def layout(self) -> tuple[Any, ...]:
        """What its bits depend on, besides values and dtype: shapes and strides, where the result begins in memory, and the library."""
        matrices = (self.a, self.b, self.out, self.summand)
        layouts = [None if matrix is None else _layout(matrix) for matrix in matrices]
        return *layouts, self.out.data_ptr() % _ALIGNMENT, self.by_onednn


def _in_parts(matrix: Tensor, n_parts: int) -> Tensor:
    return matrix.view(n_parts, -1, matrix.shape[1])


def share_product(product: Product) -> Callable[[], Any]:
    """Return a call that computes a product, on more threads if it is large, its bits stay the same and it is quicker."""
    n_operations = product.n_operations
    choice = partial(_choice_of_products, product.layout(), product.a.dtype, n_operations)
    return share(product.bind(), n_operations, partial(_way, product), choice)


def compute_shared(product: Product) -> None:
    """Compute a product on the threads that `share_product` would allow."""
    n_threads, call = _way(product, most_threads(product.n_operations))
    call_on(n_threads, call)


def mm(a: Tensor, b: Tensor, summand: Tensor | None = None, *, by_onednn: bool = False) -> Tensor:
    """Return ``a @ b``, plus the summand if there is one, of two matrices or of two stacks of them."""
    if by_onednn:
        return onednn.multiply(a, b, summand)
    if summand is None:
        return torch.mm(a, b) if a.ndim == 2 else torch.bmm(a, b)
    return torch.addmm(summand, a, b) if a.ndim == 2 else torch.baddbmm(summand, a, b)


def bind_shared(
    b: Tensor,
    n_rows: int,
    strides: tuple[int, ...],
    n_threads: int,
    summand: Tensor | None = None,
    *,
    by_onednn: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return ``multiply(a)`` that gives ``mm(a, b, summand)`` in new memory, with the bits of one thread on at most so many.

    Parameters
    ----------
    b : Tensor of shape (n_inner, n_columns)
        On a CPU.
    n_rows : int
        Of `a`.
    strides : tuple of int
        Of `a`, in numbers.
    n_threads : int
    summand : Tensor of shape (1, n_columns), default=None
    by_onednn : bool, default=False
    """
    shape = n_rows, b.shape[1]
    multiply = partial(mm, by_onednn=by_onednn)
    if n_threads == 1 or min(n_rows, *b.shape) < _WIDE:
        return lambda a: multiply(a, b, summand)
    of_summand = None if summand is None else _layout(summand)
    layout = ((n_rows, len(b)), strides), _layout(b), (shape, (shape[1], 1)), of_summand, 0, by_onednn
    n_threads, divide = _invariant_way(layout, b.dtype, n_threads)
    if divide is _by_the_blas:
        return lambda a: call_on(n_threads, multiply, a, b, summand)
    if divide is Product.by_rows:
        parts = b.expand(n_threads, -1, -1)
        return lambda a: call_on(n_threads, mm, _in_parts(a, n_threads), parts, summand).view(shape)

    def multiply_columns(a: Tensor) -> Tensor:
        product = Product(a, b, a.new_empty(shape), summand)
        compute_shared(product)
        return product.out

    return multiply_columns


def _layout(matrix: Tensor) -> _MatrixLayout:
    return tuple(matrix.shape), matrix.stride()


def _way(product: Product, n_threads: int) -> tuple[int, Callable[[], Any]]:
    """On how many threads a product is computed, at most `n_threads`, and how."""
    is_wide = min(*product.a.shape[-2:], product.b.shape[-1]) >= _WIDE
    if n_threads > 1 and is_wide and product.out.device.type == "cpu":
        n_threads, divide = _invariant_way(product.layout(), product.a.dtype, n_threads)
        divided = divide(product, n_threads)
        assert divided is not None
        return n_threads, divided.bind()
    return 1, product.bind()


def _by_the_blas(product: Product, n_threads: int) -> Product:
    """The product as it is, which the BLAS divides as it likes."""
    return product


def _by_columns(product: Product, n_threads: int) -> Product | None:
    return product.transposed().by_rows(n_threads)


def _divisions() -> list[_Division]:
    """Ways to divide a product among threads, the quickest first.

    Where MKL has no kernels of its own for the processor, halves of the rows take 0.75 to 1.0 of its time in float64 and 0.9
    to 1.05 in float32, but a tenth more where more than a thousand rows of X meet few units.
    """
    first, second = (_by_the_blas, Product.by_rows) if has_own_kernels() else (Product.by_rows, _by_the_blas)
    return [first, second, _by_columns]


@lru_cache(maxsize=256)
def _choice_of_products(layout: Any, dtype: torch.dtype, n_operations: int) -> ThreadChoice:
    """One choice for all products of these layouts: each mini-batch that is read from disk has two of its own."""
    return ThreadChoice(n_operations)


@lru_cache(maxsize=4096)
def _invariant_way(layout: Any, dtype: torch.dtype, n_threads: int) -> tuple[int, _Division]:
    """Find how many threads, at most `n_threads`, give a product of this layout the bits that one gives it, and how divided."""
    # A trial would write into one place what it takes for two elements.
    if any(_overlaps(*matrices) for matrices in layout[:2]):
        return 1, _by_the_blas
    product = _random_product(layout, dtype)
    while n_threads > 1:
        for divide in _divisions():
            divided = divide(product, n_threads)
            if divided is not None and _has_bits_of_one_thread(product, divided, n_threads):
                return n_threads, divide
        n_threads //= 2
    return 1, _by_the_blas


def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements of a matrix are in one place, as those of `numpy.broadcast_to` are, or of windows."""
    extent = 1
    for stride, n in sorted(zip(strides[-2:], shape[-2:], strict=True)):
        if n > 1 and stride < extent:
            return True
        extent += (n - 1) * stride
    return False


def _random_product(layout: Any, dtype: torch.dtype) -> Product:
    """A product of this layout. Each term of a sum has its opposite, so that what remains are errors, which depend on the order."""
    generator = torch.Generator("cpu").manual_seed(0)

    def random_matrix(shape: tuple[int, ...], strides: tuple[int, ...], *, first_byte: int = 0) -> Tensor:
        size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        memory = torch.empty(size + _ALIGNMENT, dtype=dtype, device="cpu").normal_(generator=generator)
        first = (first_byte - memory.data_ptr()) % _ALIGNMENT // memory.itemsize
        return memory[first : first + size].as_strided(shape, strides)

    of_a, of_b, of_out, of_summand, first_byte, by_onednn = layout
    product = Product(
        random_matrix(*of_a),
        random_matrix(*of_b),
        random_matrix(*of_out, first_byte=first_byte),
        None if of_summand is None else random_matrix(*of_summand).mul_(torch.finfo(dtype).eps),
        by_onednn,
    )
    a, b = _once(product.a), _once(product.b)
    half = a.shape[-1] // 2
    a[..., half : 2 * half] = a[..., :half]
    b[..., half : 2 * half, :] = -b[..., :half, :]
    return product


def _has_bits_of_one_thread(product: Product, divided: Product, n_threads: int) -> bool:
    """Whether some threads give the product that one gives, however its terms are ordered."""
    on_one, on_several = product.bind(), divided.bind()
    n_trials = _TRIALS
    if divided is product:
        n_trials = max(3, min(_TRIALS_OF_THE_BLAS, _TRIED_OPERATIONS // product.n_operations))
    for seed in range(n_trials):
        order = torch.randperm(product.a.shape[-1], generator=torch.Generator("cpu").manual_seed(seed))
        for terms, axis in ((_once(product.a), -1), (_once(product.b), -2)):
            terms.copy_(terms.index_select(axis, order))
        on_one()
        expected = product.out.clone()
        product.out.zero_()
        call_on(n_threads, on_several)
        if not torch.equal(product.out, expected):
            return False
    return True


def _once(matrices: Tensor) -> Tensor:
    """The memory of a stack, which may have one matrix for all of its products."""
    return matrices[:1] if matrices.ndim > 2 and matrices.stride(0) == 0 else matrices
