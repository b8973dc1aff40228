"""`Codes` and the sparse products, against dense matrices."""

import pytest
import torch

from saekit import codes as c
from saekit.codes import Codes


def random_codes(rows=37, d_sae=53, density=0.1, seed=0):
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, d_sae, generator=g) * (torch.rand(rows, d_sae, generator=g) < density)
    matrix[3] = 0  # a row with nothing on
    matrix[:, 7] = 0  # a latent that is never on
    return matrix, Codes.from_dense(matrix)


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both implementations of the products."""
    monkeypatch.setattr(c, "DENSE_ABOVE", 2.0 if request.param == "sparse" else -1.0)
    return request.param


def test_dense_and_back():
    matrix, codes = random_codes()
    assert torch.equal(codes.dense(), matrix)
    assert (codes.rows.diff() >= 0).all()
    assert torch.equal(codes.counts(), (matrix != 0).sum(0))


def test_by_latent_orders_every_entry_once():
    _, codes = random_codes()
    order, offsets = codes.support.by_latent
    assert torch.equal(order.sort().values, torch.arange(len(codes.values)))
    for i in range(codes.d_sae):
        mine = order[offsets[i] : offsets[i + 1]]
        assert (codes.latents[mine] == i).all()
        assert (codes.rows[mine].diff() > 0).all()


def test_decode_equals_the_matrix_product_in_value_and_gradient(path):
    matrix, codes = random_codes()
    W = torch.randn(53, 11, requires_grad=True)
    values = codes.values.clone().requires_grad_()
    grad = torch.randn(37, 11)
    out = c.decode(codes.with_values(values), W)
    dv, dW = torch.autograd.grad(out, (values, W), grad)
    dense = matrix.clone().requires_grad_()
    expected = dense @ W
    df, dW_dense = torch.autograd.grad(expected, (dense, W), grad)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(dW, dW_dense)
    torch.testing.assert_close(dv, df[codes.rows, codes.latents])


@pytest.mark.parametrize("known", [True, False])
def test_encode_equals_the_matrix_product_in_value_and_gradient(path, known):
    _, codes = random_codes()
    x, b = torch.randn(37, 9, requires_grad=True), torch.randn(53, requires_grad=True)
    W = torch.nn.Parameter(torch.randn(53, 9).T)
    dense = x @ W + b
    at = dense[codes.rows, codes.latents]
    out = c.encode(x, W, b, codes.support, at.detach() if known else None)
    grad = torch.randn_like(out)
    torch.testing.assert_close(out, at)
    for mine, expected in zip(
        torch.autograd.grad(out, (x, W, b), grad), torch.autograd.grad(at, (x, W, b), grad), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_products_pass_gradcheck(path):
    _, codes = random_codes(rows=5, d_sae=8, density=0.3)
    values = codes.values.double().requires_grad_()
    W = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, w: c.decode(codes.with_values(v), w), (values, W))


def test_no_entry_at_all(path):
    codes = Codes.from_dense(torch.zeros(4, 6))
    W = torch.randn(6, 3, requires_grad=True)
    out = c.decode(codes, W)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(4, 3))
    assert torch.equal(W.grad, torch.zeros(6, 3))


def test_every_entry(path):
    matrix = torch.randn(4, 6)
    W = torch.randn(6, 3)
    torch.testing.assert_close(c.decode(Codes.from_dense(matrix), W), matrix @ W)


def test_from_entries_sorts_and_sums_duplicates():
    codes = Codes.from_entries(
        torch.tensor([2, 0, 2, 2]), torch.tensor([1, 3, 1, 0]), torch.tensor([1.0, 2.0, 4.0, 8.0]), 3, 4
    )
    expected = torch.zeros(3, 4)
    expected[2, 1], expected[0, 3], expected[2, 0] = 5, 2, 8
    assert torch.equal(codes.dense(), expected)
    assert codes.latents.tolist() == [3, 0, 1]


def test_where_on_and_cat():
    matrix, codes = random_codes()
    big = codes.where(codes.values > 0)
    assert torch.equal(big.dense(), matrix.clamp(min=0))
    assert torch.equal(codes.with_values(codes.values.relu()).on().dense(), matrix.clamp(min=0))
    assert torch.equal(Codes.cat([codes, big]).dense(), torch.cat([matrix, matrix.clamp(min=0)]))
