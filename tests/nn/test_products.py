"""Products on several threads: the same bits as on one, whole or in parts."""

from itertools import product as combinations

import pytest
import torch

from sktorch_mlp._nn import products
from sktorch_mlp._nn.products import Product, bind_shared, compute_shared, mm, share_product
from sktorch_mlp._nn.threads import _TimedCall, threads_for_large_calls

pytestmark = pytest.mark.usefixtures("two_torch_threads")

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def on_one_thread(two_torch_threads):
    torch.set_num_threads(1)


def _matrix(shape, transposed=False, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(*(shape[::-1] if transposed else shape), dtype=dtype, generator=generator)
    return matrix.mT if transposed else matrix


def _product(n_rows, n_inner, n_columns, transposed=(False,) * 3, summand=None, dtype=torch.float64):
    shapes = (n_rows, n_inner), (n_inner, n_columns), (n_rows, n_columns)
    a, b, out = (_matrix(*args, dtype, seed) for seed, args in enumerate(zip(shapes, transposed, strict=True)))
    return Product(a, b, out, None if summand is None else _matrix(summand, dtype=dtype, seed=3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("summand", [None, (96, 1), (1, 160), (1, 1), (96, 160)], ids=str)
@pytest.mark.parametrize("transposed", list(combinations([False, True], repeat=3)), ids=str)
def test_parts_make_up_the_product(transposed, summand, dtype):
    whole = _product(96, 50, 160, transposed, summand, dtype)
    expected = whole.a @ whole.b + (0 if summand is None else whole.summand)
    ways = [divide(whole, 2) for divide in products._divisions()]
    assert {way.out.shape for way in ways} == {(96, 160), (2, 48, 160), (2, 80, 96)}
    for way in ways:
        whole.out.fill_(torch.nan)
        way.bind()()
        torch.testing.assert_close(whole.out, expected)


def test_parts_are_equal_and_not_narrow():
    assert _product(160, 50, 96).by_rows(5).out.shape == (5, 32, 96)
    assert _product(161, 50, 96).by_rows(5) is None
    assert _product(155, 50, 96).by_rows(5) is None
    assert Product(torch.ones(4, 64, 8), torch.ones(4, 8, 64), torch.ones(4, 64, 64)).by_rows(2) is None


def test_products_of_the_same_layout_have_one_choice():
    a, b = _matrix((200, 300)), _matrix((300, 100))
    with threads_for_large_calls(2):
        calls = [share_product(Product(a.clone(), b.clone(), torch.empty(200, 100).double())) for _ in range(2)]
        other = share_product(Product(a.mT.contiguous().mT, b, torch.empty(200, 100).double()))
    if isinstance(calls[0], _TimedCall):
        assert calls[0]._choice is calls[1]._choice
    if isinstance(other, _TimedCall):
        assert other._choice is not calls[0]._choice


def test_small_and_narrow_products_have_one_thread():
    with threads_for_large_calls(2):
        for small in (_product(10, 10, 10), _product(31, 10**4, 100)):
            assert not isinstance(share_product(small), _TimedCall)
    assert not isinstance(share_product(_product(200, 300, 200)), _TimedCall)  # nobody has given threads


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_summand", [False, True], ids=["", "summand"])
@pytest.mark.parametrize(
    "shape", [(128, 784, 64), (128, 784, 200), (10, 784, 1437), (301, 200, 100), (1024, 64, 512)], ids=str
)
def test_products_that_are_shared_have_the_same_bits(shape, has_summand, dtype):
    product = _product(*shape, (False, True, False), (shape[0], 1) if has_summand else None, dtype)
    with threads_for_large_calls(2):
        shared = share_product(product)
        product.bind()()
        alone = product.out.clone()
        compute_shared(product)
    assert torch.equal(product.out, alone)
    if isinstance(shared, _TimedCall):
        product.out.zero_()
        shared._shared()
        assert torch.equal(product.out, alone)


@pytest.mark.parametrize(
    "divide", [None, *products._divisions()], ids=lambda divide: getattr(divide, "__name__", "chosen")
)
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False)], ids=str)
@pytest.mark.parametrize("summand", [None, (1, 128)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_product_in_new_memory_has_the_bits_of_one_thread(dtype, summand, transposed, divide, monkeypatch):
    product = _product(96, 400, 128, (*transposed, False), summand, dtype)
    if divide is not None:
        monkeypatch.setattr(products, "_invariant_way", lambda *args: (2, divide))
    with threads_for_large_calls(2):
        result = bind_shared(product.b, 96, product.a.stride(), 2, product.summand)(product.a)
        compute_shared(product)
    assert torch.equal(result, product.out)
    expected = mm(product.a, product.b, product.summand)
    if divide is None:
        assert torch.equal(result, expected)
    torch.testing.assert_close(result, expected)


def test_rows_that_share_memory_have_one_thread():
    """A trial would have to write into elements that are in one place."""
    b, row = _matrix((700, 128)), _matrix((1, 1400))[0]
    repeated, windows = row[:700].expand(300, -1), row.unfold(0, 700, 1)
    for rows in (repeated, repeated.mT[:, :1].expand(-1, 128).mT, row[:300, None].expand(-1, 700), windows):
        with threads_for_large_calls(2):
            result = bind_shared(b, len(rows), rows.stride(), 2)(rows)
            shared = share_product(Product(rows, b, torch.empty(len(rows), 128, dtype=b.dtype)))
        assert torch.equal(result, rows @ b)
        assert not isinstance(shared, _TimedCall)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("shape", [(50, 50, 1797), (131, 83, 1085), (235, 54, 1365), (82, 50, 1797)], ids=str)
def test_no_element_depends_on_threads(shape, first):
    """With MKL on two threads single elements of these are summed in another order, which most values do not show."""
    n_rows, n_inner, n_columns = shape
    a, b = _matrix((n_rows, n_inner)), _matrix((n_inner, n_columns))
    out = torch.empty(n_rows * n_columns + 1, dtype=torch.float64)[first:][: n_rows * n_columns]
    product = Product(a, b, out.view(n_rows, n_columns))
    n_threads, divide = products._invariant_way(product.layout(), torch.float64, 2)
    shared = divide(product, n_threads).bind()
    for seed in range(20):
        a.normal_(generator=torch.Generator().manual_seed(seed))
        product.bind()()
        alone = out.clone()
        products.call_on(n_threads, shared)
        assert torch.equal(out, alone)


def test_trials_are_sums_of_errors():
    """Also where a stack has one matrix for all of its products."""
    a = torch.ones(1, 64, 100).expand(3, -1, -1)
    product = Product(a, torch.ones(3, 100, 64), torch.ones(3, 64, 64), torch.ones(3, 64, 1))
    tried = products._random_product(product.layout(), torch.float64)
    assert tried.layout() == product.layout()
    assert products._has_bits_of_one_thread(tried, tried, 1)
    assert 0 < tried.out.abs().max() < 1e-12


def test_parts_of_wider_memory_have_a_layout_of_their_own():
    """Their bits may depend on other threads than those of the same shape."""
    tight = _product(170, 512, 65)
    padded = tight._replace(out=torch.empty(170, 68, dtype=torch.float64)[:, :65])
    assert padded.layout() != tight.layout()
    shared_rows = Product(torch.ones(1, 64, 100).expand(3, -1, -1), torch.ones(3, 100, 64), torch.ones(3, 64, 64))
    for product in (padded, shared_rows):
        n_threads, divide = products._invariant_way(product.layout(), product.a.dtype, 2)
        product.bind()()
        alone = product.out.clone()
        products.call_on(n_threads, divide(product, n_threads).bind())
        assert torch.equal(product.out, alone)


@pytest.mark.parametrize("is_own", [True, False], ids=["own kernels", "foreign kernels"])
def test_the_blas_divides_where_it_has_kernels_of_its_own(is_own, monkeypatch):
    monkeypatch.setattr(products, "has_own_kernels", lambda: is_own)
    product = _product(200, 300, 200)
    ways = [divide(product, 2) for divide in products._divisions()]
    assert [way is product for way in ways] == [is_own, not is_own, False]


@pytest.mark.parametrize("n_wrong", range(4))
def test_the_first_division_with_the_same_bits_is_taken(n_wrong, monkeypatch):
    """Where the threads of the BLAS sum in another order it is by rows or by columns, and else on one thread."""

    class Rounding(Product):
        def bind(self):
            call = Product.bind(self)
            return lambda: (call(), self.out.add_(torch.get_num_threads() > 1))

    divisions = products._divisions()
    wrong = [lambda product, n_threads: Rounding(*product)] * n_wrong
    monkeypatch.setattr(products, "_divisions", lambda: wrong + divisions[n_wrong:])
    product = _product(200, 300, 200)
    n_threads, divide = products._invariant_way.__wrapped__(product.layout(), torch.float64, 2)
    if n_threads == 1:
        assert divide is products._by_the_blas
    else:
        assert divide in divisions[n_wrong:]
