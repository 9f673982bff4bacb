"""Layers of Laplace kernels on several processes: the numbers of one process, and what is held."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.distributed.tensor import Shard

import laplex
import parallel_cases as cases
from laplex.nn import shard_placement
from rank_cases import run_ranks

#: Sums of a few hundred terms in float64, in another order, through two layers and a few steps of
#: training whose gains are about 1: each rounds to 1e-16 of its terms, which are of one size.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def trained(**named):
    model = cases.network()
    cases.train(model, cases.optimiser_of(model), **named)
    return model


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, **CLOSE, err_msg=name)


@pytest.mark.parametrize("parallel", [cases.ddp, cases.older_fsdp])
def test_data_parallel_training_is_that_of_one_process_on_the_joined_batch(parallel):
    for found in run_ranks(parallel, 2):
        assert_same(found, cases.state(trained()))


def test_fully_sharded_training_and_what_a_layer_says_of_itself():
    results = run_ranks(cases.fsdp, 2)
    model = trained(norms=True)
    whole = sum(each.numel() for each in model.parameters())
    # All but the two lengthscales is shared equally, although a layer has one head.
    assert [held for _, held, _ in results] == [whole // 2 + 1, whole // 2 - 1]
    layers = [model[0], model[2]]
    for found, _, seen in results:
        assert_same(found, cases.state(model))
        assert seen["ranks"] == [layer.rank() for layer in layers]
        np.testing.assert_allclose(seen["routing"], layers[1].routing().detach(), **CLOSE)
        for layer, norms, weight, dense in zip(
            layers, seen["norms"], seen["weights"], seen["dense"], strict=True
        ):
            np.testing.assert_allclose(norms, layer.head_norms().detach(), **CLOSE)
            np.testing.assert_allclose(weight, layer.weight.detach(), **CLOSE)
            np.testing.assert_allclose(dense, layer.to_linear().weight.detach(), **CLOSE)


def test_layers_from_the_meta_device_have_the_values_of_one_process():
    expected = cases.state(cases.network(heads=3))
    for found in run_ranks(cases.from_meta, 2):
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_mixed_precision_keeps_the_anchors_and_otherwise_names_the_remedy():
    model = cases.with_dense_layer()
    start = cases.state(copy.deepcopy(model))
    cases.train(model, cases.optimiser_of(model), dtype=torch.float32)
    for found, dtypes, message in run_ranks(cases.mixed, 2):
        for name, values in cases.state(model).items():
            # Activations and their gradients are rounded to 9 bits five times each way.
            moved = np.linalg.norm(values - start[name])
            assert np.linalg.norm(found[name] - values) <= 10 * 2**-9 * moved, name
        assert dtypes == {torch.bfloat16}
        assert "fully_shard(layer, mp_policy=laplex.nn.mp_policy)" in message


def test_the_placement_of_a_parameter():
    line = torch.nn.Parameter(torch.empty(1, 64))
    assert shard_placement(line, ranks=4) == Shard(1)
    assert shard_placement(torch.nn.Parameter(torch.empty(4, 64)), ranks=4) is None
    assert shard_placement(torch.nn.Parameter(torch.empty(64)), ranks=4) is None
    assert shard_placement(torch.nn.Parameter(torch.empty(2, 8, 16)), ranks=4) == Shard(2)
    with pytest.warns(UserWarning, match="held by 1 of 3 ranks.*a multiple of 3"):
        assert shard_placement(line, ranks=3) is None
    with pytest.raises(ValueError, match="ranks must be at least 1"):
        shard_placement(line, ranks=0)


@pytest.mark.parametrize(("size", "heads"), [(2, 2), (3, 6)])
def test_heads_over_ranks(size, heads):
    output, gradients = cases.output_and_gradients(cases.network(heads))
    for held, found, its_gradients in run_ranks(cases.by_heads, size, heads):
        assert held == [heads // size] * 2
        if heads == 2:  # a sum of two has one order
            np.testing.assert_array_equal(found, output)
        np.testing.assert_allclose(found, output, **CLOSE)
        assert_same(its_gradients, gradients)


@pytest.mark.parametrize(("size", "heads"), [(2, 1), (3, 2)])
def test_features_over_ranks(size, heads):
    output, gradients = cases.output_and_gradients(cases.layers_of_features(heads))
    results = run_ranks(cases.by_features, size, heads)
    assert sum(held for held, _, _ in results) == 23
    for _, found, its_gradients in results:
        np.testing.assert_allclose(found, output, **CLOSE)
        assert_same(its_gradients, gradients)


def test_heads_and_batch_over_a_mesh():
    model = cases.network(heads=2)
    cases.train(model, cases.optimiser_of(model))
    for found in run_ranks(cases.heads_and_fsdp, 4):
        assert_same(found, cases.state(model))


def test_a_checkpoint_of_two_ranks_goes_on_with_four_and_then_with_one(tmp_path):
    first, second, third = (str(tmp_path / name) for name in ("two", "four", "one"))
    run_ranks(cases.checkpointed, 2, None, first, range(2))
    run_ranks(cases.checkpointed, 4, first, second, range(2, 4))
    (found,) = run_ranks(cases.checkpointed, 1, second, third, range(4, 6))
    assert_same(found, cases.state(trained(steps=range(6))))


@pytest.mark.parametrize("form", ["real", "cosine", "complex values"])
def test_products_of_dtensors_and_their_first_and_second_gradients(form):
    _, expected = cases.differentiated(cases.product_arguments(form), form)
    results = {
        where: (places, found) for where, places, found in run_ranks(cases.products, 2, form)[0]
    }
    for _, found in results.values():
        np.testing.assert_array_equal(found[0], expected[0])  # a row's bits do not depend on others
        for mine, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, wanted, **CLOSE)
    assert results["rows"][0][0] == "(Shard(dim=0),)"
    assert results["heads"][0][0] == results["anchors' heads"][0][0] == "(Shard(dim=1),)"
    assert results["line"][0][0] == "(Replicate(),)"


def test_what_cannot_be_distributed_is_refused():
    for errors in run_ranks(cases.refused, 2):
        for error, start in zip(
            errors,
            [
                "ValueError: the layer has 3 heads, which 2 devices cannot share equally",
                "TypeError: HeadParallel is for laplex.nn.LaplexLinear and LaplexHead, got Tanh",
                "TypeError: targets is an ordinary tensor, but values is a DTensor: distribute it",
                "ValueError: targets is on DeviceMesh((1, 2)",
                "ValueError: values has 3 entries in its last dimension, but there are 2 targets",
                "ValueError: rank 1: input has shape [3, 5], but this rank has 4 of the layer's",
                "TypeError: rank 1: input has dtype torch.float64 but the layer is torch.float32",
            ],
            strict=True,
        ):
            assert error.startswith(start)


def test_lightning_trains_by_ddp_and_by_model_parallelism():
    pytest.importorskip("pytorch_lightning")
    for states in run_ranks(cases.lightning, 2):
        for found in states:
            assert_same(found, cases.state(trained()))


def test_half_precision_anchors_are_refused_without_fsdp():
    layer = laplex.nn.LaplexLinear(4, 3)
    layer.targets.data = layer.targets.data.bfloat16()
    with pytest.raises(TypeError, match="keep them in float32"):
        layer(torch.ones(4))
