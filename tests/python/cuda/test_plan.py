"""laplex.cuda.Plan: what laplex.Plan gives, for arrays of any library on a GPU.

Skipped without a device, unless LAPLEX_REQUIRE_GPU=1. With LAPLEX_EMULATED_CUDA=1 and a core built
for it, "device" memory is the host's: see emulated_cuda.py.
"""

from __future__ import annotations

import gc
import itertools
import os

import numpy as np
import pytest
import torch

import laplex
from laplex import _core
from laplex._support.core import PRODUCT
from torch_cases import FORMS

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()

on_device = pytest.mark.skipif(
    not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
    reason="no GPU, or a build without CUDA",
)
emulated_only = pytest.mark.skipif(not EMULATED, reason="device memory must be the host's")
gpu_only = pytest.mark.skipif(
    EMULATED or not (HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"), reason="needs a GPU"
)


class Interface:
    """A NumPy array that says it is in GPU memory, as Numba's arrays do."""

    def __init__(self, array, stream=None, read_only=False, **more):
        self.array = array
        self.more = {"stream": stream, **more}
        self.read_only = read_only

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, self.read_only),
            "strides": None if self.array.flags.c_contiguous else self.array.strides,
            "version": 3,
            **self.more,
        }


class Lent:
    """A NumPy array as other libraries lend theirs: by DLPack's methods alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None):
        return self.array.__dlpack__(stream=stream)


if EMULATED:
    LIBRARIES = {"interface": Interface, "dlpack": Lent, "numpy": np.asarray}
    LIBRARIES["torch"] = torch.from_numpy
else:
    LIBRARIES = {"torch": lambda array: torch.from_numpy(array).cuda(), "cupy": None}
    LIBRARIES["array"] = None


@pytest.fixture(params=LIBRARIES)
def device(request):
    """Brings NumPy arrays to the device, in one library after the other."""
    if request.param == "cupy":
        return pytest.importorskip("cupy").asarray
    if request.param == "array":
        return owned
    return LIBRARIES[request.param]


def put(array):
    """Any array of the device."""
    return LIBRARIES["interface" if EMULATED else "torch"](np.array(array, order="C"))


def owned(array):
    """A laplex.cuda.Array."""
    made = laplex.cuda.Array(array.shape, array.dtype, None)
    made._memory.copy_from_host(_core.address(np.ascontiguousarray(array)))
    return made


def host(array):
    """A NumPy array of any library's."""
    if isinstance(array, laplex.cuda.Array):
        return array.numpy()
    if isinstance(array, torch.Tensor):
        return array.cpu().numpy()
    if hasattr(array, "get"):
        return array.get()
    return np.asarray(getattr(array, "array", array))


def draw(form, n, m, dtype, batch=(), seed=0):
    """Arguments of both plans: of NumPy, and which of them go to the device."""
    oscillates, phased, real_part = FORMS[form]
    rng = np.random.default_rng(seed)
    return {
        "targets": rng.random((*batch, n)).astype(dtype),
        "sources": None if m is None else rng.random((*batch, m)).astype(dtype),
        "lengthscale": rng.uniform(0.1, 1, batch),
        "frequency": rng.uniform(1, 2, batch) if oscillates else 0.0,
        "target_phase": rng.random((*batch, n)).astype(dtype) if phased else None,
        "source_phase": rng.random((*batch, m or n)).astype(dtype) if phased else None,
        "real_part": real_part,
    }


def both(arguments, move=put):
    moved = {
        name: move(value)
        if name in ("targets", "sources", "target_phase", "source_phase") and value is not None
        else value
        for name, value in arguments.items()
    }
    return laplex.Plan(**arguments), laplex.cuda.Plan(**moved)


def random(shape, dtype, seed=1):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def assert_near(got, want, factor=1.0):
    got = host(got)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    eps = np.finfo(want.dtype).eps
    scale = np.abs(want).max(initial=1.0)
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * factor * eps * scale)


@on_device
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    ("n", "m", "batch", "rows", "kernel", "side"),
    [
        (5, 7, (), (), "matern12", "both"),
        (30, None, (3,), (), "matern12", "both"),
        (40, 30, (2, 2), (3,), "matern12", "both"),
        (1500, 900, (), (2, 1), "matern12", "both"),
        (30, None, (3,), (), "matern52", "both"),
        (40, 30, (2, 2), (3,), "matern32", "both"),
        (30, None, (3,), (), "matern12", "left"),
        (1500, 900, (), (2, 1), "matern12", "right"),
        (40, 30, (2, 2), (3,), "matern32", "right"),
    ],
)
def test_it_is_the_plan_of_the_host(form, dtype, is_complex, n, m, batch, rows, kernel, side):
    arguments = {**draw(form, n, m, dtype, batch), "kernel": kernel, "side": side}
    plan, on_gpu = both(arguments)
    assert on_gpu.shape == plan.shape
    assert on_gpu.batch_shape == plan.batch_shape
    assert on_gpu.dtype == plan.dtype
    assert on_gpu.nbytes > 0
    assert repr(on_gpu) == f"laplex.cuda.{plan!r}"
    kind = np.result_type(dtype, np.complex64) if is_complex else np.dtype(dtype)
    v = random((*rows, *batch, m or n), kind)
    u = random((*rows, *batch, n), kind, seed=2)
    if is_complex and arguments["real_part"]:
        with pytest.raises(ValueError, match="complex values with real_part: pass their real and"):
            on_gpu.apply(put(v))
        return
    assert_near(on_gpu.apply(put(v)), plan.apply(v))
    if v.ndim == 1:
        assert_near(on_gpu @ put(v), plan @ v)
    assert_near(on_gpu.transpose(put(u)), plan.transpose(u))
    assert_near(on_gpu.adjoint(put(u)), plan.adjoint(u))
    if side == "both":
        for got, want in zip(on_gpu.half_sums(put(v)), plan.half_sums(v), strict=True):
            assert_near(got, want)
    else:
        with pytest.raises(ValueError, match="half_sums needs a plan with side both"):
            on_gpu.half_sums(put(v))

    result = plan.apply(v)
    grad = random(result.shape, result.dtype, seed=3)
    found = on_gpu.vjp(put(v), put(grad))
    for name, want in plan.vjp(v, grad)._asdict().items():
        got = getattr(found, name)
        if want is None:
            assert got is None
            continue
        got = host(got)
        if name == "frequency" and not FORMS[form][0]:  # given once for all heads
            assert got.shape == batch
            got = got.sum()
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        bound = 100 * n * np.finfo(dtype).eps  # values were rounded to the anchors' precision
        np.testing.assert_allclose(
            got, want, rtol=0, atol=bound * np.abs(want).max(initial=1.0), err_msg=name
        )


@on_device
def test_every_library(device):
    arguments = draw("all", 50, 40, np.float32, (2,))
    plan, on_gpu = both(arguments, device)
    v = random((3, 2, 40), np.float32)
    given = device(v)
    result = on_gpu.apply(given)
    library = type(given).__module__.partition(".")[0]
    if library in ("torch", "cupy"):
        assert type(result) is type(given)
    else:
        assert isinstance(result, laplex.cuda.Array)
    assert_near(result, plan.apply(v))
    out = device(np.zeros((3, 2, 50), np.complex64))
    assert on_gpu.apply(given, out=out) is out
    assert_near(out, plan.apply(v))
    grad = random((3, 2, 50), np.complex64)
    found, want = on_gpu.vjp(given, device(grad)), plan.vjp(v, grad)
    assert_near(found.values, want.values, 40)
    assert_near(found.targets, want.targets, 40)


@on_device
@pytest.mark.parametrize("form", ["real", "carrier"])
def test_half_precision(form):
    plan, on_gpu = both(draw(form, 50, 40, np.float32))
    v = random((3, 40), np.float16)
    got, want = host(on_gpu.apply(put(v))), plan.apply(v)
    assert got.dtype == want.dtype == (np.float16 if form == "real" else np.complex64)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    if form == "real":
        out = put(np.zeros((3, 50), np.float16))
        assert on_gpu.apply(put(v), out=out) is out
        np.testing.assert_array_equal(host(out), got)
    for call in (on_gpu.half_sums, lambda v: on_gpu.vjp(v, v)):
        with pytest.raises(TypeError, match="v is float16, which only apply, transpose"):
            call(put(v))


@on_device
@pytest.mark.parametrize("m", [None, 30])
def test_update(m):
    old, new = (draw("real", 40, m, np.float64, seed=seed) for seed in (0, 1))
    new["lengthscale"] = old["lengthscale"]
    _, on_gpu = both(old)
    moved = [put(new[k]) for k in ("targets", "sources") if new[k] is not None]
    on_gpu.update(*moved)
    v = random(m or 40, np.float64)
    assert_near(on_gpu.apply(put(v)), laplex.Plan(**new).apply(v))
    bad = np.full(40, np.nan)
    with pytest.raises(ValueError, match="targets must be finite"):
        on_gpu.update(put(bad), *moved[1:])
    assert_near(on_gpu.apply(put(v)), laplex.Plan(**new).apply(v))
    with pytest.raises(ValueError, match=r"\[3\] but must have shape \[40\]"):
        on_gpu.update(put(np.zeros(3)), *moved[1:])
    with pytest.raises(ValueError, match="sources"):
        on_gpu.update(moved[0], *([] if m else moved))


@on_device
def test_parameters_on_the_device_are_read_at_every_call():
    arguments = draw("oscillating", 20, 10, np.float64, (3,))
    ell, omega = arguments["lengthscale"], arguments["frequency"]
    held = {"lengthscale": owned(ell), "frequency": owned(omega)}
    moved = {k: put(arguments[k]) for k in ("targets", "sources")}
    on_gpu = laplex.cuda.Plan(**moved, **held)
    assert "lengthscale=on the GPU" in repr(on_gpu)
    v = random((3, 10), np.float64)
    assert_near(on_gpu.apply(put(v)), laplex.Plan(**arguments).apply(v))
    held["lengthscale"]._memory.copy_from_host(_core.address(2 * ell))
    arguments["lengthscale"] = 2 * ell
    assert_near(on_gpu.apply(put(v)), laplex.Plan(**arguments).apply(v))
    with pytest.raises(TypeError, match="lengthscale on the GPU must be float64, got float32"):
        laplex.cuda.Plan(**moved, lengthscale=owned(ell.astype(np.float32)))
    with pytest.raises(ValueError, match=r"one entry per head, \[3\]"):
        laplex.cuda.Plan(**moved, lengthscale=owned(ell[:2]))


@on_device
def test_empty_sides_and_no_rows():
    x, none = put(np.random.default_rng(0).random(3)), put(np.zeros(0))
    assert host(laplex.cuda.Plan(x, none).apply(none)).tolist() == [0, 0, 0]
    assert host(laplex.cuda.Plan(none, x).apply(put(np.ones((2, 3))))).shape == (2, 0)
    assert host(laplex.cuda.Plan(x).apply(put(np.ones((0, 3))))).shape == (0, 3)
    heads = laplex.cuda.Plan(put(np.zeros((0, 3))))
    assert heads.shape == (0, 3, 3)
    assert host(heads.apply(put(np.ones((0, 3))))).shape == (0, 3)


@on_device
def test_errors():
    x = np.random.default_rng(0).random(6)
    plan = laplex.cuda.Plan(put(x))
    strided = torch.ones(12, dtype=torch.float64, device="cpu" if EMULATED else "cuda")[::2]
    for call, kind, message in [
        (lambda: plan.apply(strided), ValueError, "v must be C-contiguous: pass a copy"),
        (lambda: plan.apply([1.0] * 6), TypeError, "v must be a CUDA array .* got list"),
        (lambda: plan.apply(None), TypeError, "v must be a CUDA array .* got NoneType"),
        (
            lambda: plan @ put(x[:, None]),
            ValueError,
            "takes one vector and a plan without a batch.* contiguous rows",
        ),
        (lambda: plan @ x.tolist(), TypeError, "v must be a CUDA array .* got list"),
        (lambda: np.asarray(plan), TypeError, "cannot become a NumPy array: .* plan.apply"),
        (lambda: plan.apply(put(x.astype(np.float32))), TypeError, "v has dtype float32 but the"),
        (lambda: plan.apply(put(x.astype(np.int64))), TypeError, "v has dtype int64 but the plan"),
        (lambda: plan.apply(put(x[:5])), ValueError, r"v has shape \[5\] but must have shape"),
        (lambda: plan.apply(put(np.array(1.0))), ValueError, r"v has shape \[\] but must"),
        (
            lambda: plan.transpose(put(x[:5])),
            ValueError,
            "u has shape .* number of targets come last",
        ),
        (lambda: plan.apply(put(x), out=put(x[:5])), ValueError, "out has shape .* but the result"),
        (lambda: plan.apply(put(x), stream="0"), TypeError, "stream must be an address"),
        (lambda: plan.vjp(put(x), put(x[:5])), ValueError, "grad has shape .* but apply"),
        (lambda: plan.vjp(put(x), put(x + 0j)), TypeError, "grad is complex128 but apply"),
        (lambda: laplex.cuda.Plan(put(x.astype(int))), TypeError, "targets must be float32 or fl"),
        (lambda: laplex.cuda.Plan(put(np.array(1.0))), ValueError, "targets must have at least"),
        (lambda: laplex.cuda.Plan([0.0]), TypeError, "targets must be a CUDA array"),
        (
            lambda: laplex.cuda.Plan(put(x), put(x.astype(np.float32))),
            TypeError,
            "sources is float32 but targets are float64",
        ),
        (
            lambda: laplex.cuda.Plan(put(x), put(x[None])),
            ValueError,
            r"sources has shape \[1, 6\] but must have shape \[count\]",
        ),
        (
            lambda: laplex.cuda.Plan(put(x), target_phase=put(x[:2])),
            ValueError,
            r"target_phase has shape \[2\] but must have shape \[6\]",
        ),
        (lambda: laplex.cuda.Plan(put(x), lengthscale=-1.0), ValueError, "lengthscale must be pos"),
        (lambda: laplex.cuda.Plan(put(x), lengthscale=[1.0]), ValueError, "does not broadcast to"),
        (lambda: laplex.cuda.Plan(put(x), real_part=1), TypeError, "real_part must be True or"),
        (lambda: laplex.cuda.Plan(put(x), kernel="matern"), ValueError, "kernel must be 'matern12"),
        (lambda: laplex.cuda.Plan(put(x * np.nan)), ValueError, "targets must be finite"),
    ]:
        with pytest.raises(kind, match=message):
            call()
    v = put(x)
    with pytest.raises(ValueError, match="out overlaps v: pass separate memory"):
        plan.apply(v, out=v)


@on_device
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"lengthscale": -0.5}, r"lengthscale must be positive and finite, got -0.5$"),
        ({"lengthscale": [1.0, np.nan]}, "lengthscale must be positive .* got nan for head 1"),
        (
            {"lengthscale": torch.tensor([0.0, 1.0])},
            "lengthscale must be positive .* got 0 for hea",
        ),
        (
            {"lengthscale": np.array([1.0, np.inf])},
            "lengthscale must be positive .* inf for head 1",
        ),
        ({"lengthscale": 1e-310}, "lengthscale must be at least 2.23e-308"),
        ({"frequency": [np.nan, 1.0]}, "frequency must be finite, got nan for head 0"),
        ({"frequency": -np.inf}, "frequency must be finite, got -inf"),
    ],
)
def test_numbers_from_the_host_are_checked_before_a_plan_is_built(numbers, message, monkeypatch):
    if EMULATED and isinstance(numbers.get("lengthscale"), torch.Tensor):
        pytest.skip("a tensor on the host is one on the device")
    (given,) = numbers.values()
    x = put(np.random.default_rng(0).random((np.size(given), 6)))
    monkeypatch.setattr(_core, "CudaPlan", None)
    with pytest.raises(ValueError, match=message):
        laplex.cuda.Plan(x, **numbers)


@on_device
def test_the_plan_of_the_host_says_where_to_go():
    x = put(np.arange(3.0))
    with pytest.raises(TypeError, match=r"targets is in GPU memory: use laplex\.cuda\.Plan, or"):
        laplex.Plan(x)
    with pytest.raises(TypeError, match="v is in GPU memory"):
        laplex.Plan([0.0, 1.0, 2.0]).apply(x)


@emulated_only
def test_what_interfaces_say(monkeypatch):
    x = np.random.default_rng(0).random(6)
    plan = laplex.cuda.Plan(Interface(x))
    with pytest.raises(ValueError, match="out is read-only"):
        plan.apply(Interface(x), out=Interface(np.zeros(6), read_only=True))
    with pytest.raises(ValueError, match="v has a mask"):
        plan.apply(Interface(x, mask=object()))
    waited = []
    monkeypatch.setattr(_core, "cuda_synchronize", waited.append)
    result = plan.apply(Interface(x, stream=5))
    assert result.__cuda_array_interface__["stream"] == 5
    assert waited == []
    result = plan.apply(Interface(x, stream=5), stream=1)
    assert result.__cuda_array_interface__["stream"] == 1
    plan.apply(Interface(x, stream=5), out=Interface(np.zeros(6), stream=6))
    plan.apply(Interface(x, stream=1), stream=0)
    assert waited == [5, 6]

    class Stream:
        ptr = 9

    assert plan.apply(Interface(x), stream=Stream()).__cuda_array_interface__["stream"] == 9
    monkeypatch.setattr(laplex.cuda.interchange, "DEVICE_TYPES", frozenset({2}))
    for v in (x, torch.from_numpy(x)):
        with pytest.raises(TypeError, match=r"v is not in GPU memory: use laplex\.Plan"):
            plan.apply(v)


@emulated_only
@pytest.mark.parametrize("batch", [(), (2,)])
def test_dlpack_there_and_back(batch):
    plan, on_gpu = both(draw("carrier", 20, 10, np.float64, batch))
    v = random((3, *batch, 10), np.float64)
    result = on_gpu.apply(put(v))
    assert result.__dlpack_device__() == (1, 0)
    got = np.from_dlpack(result)
    want = result.numpy()
    np.testing.assert_array_equal(got, want)
    gradients = on_gpu.vjp(put(v), result)
    values = np.from_dlpack(gradients.values)  # strided if there are rows and heads
    assert values.flags.c_contiguous == (batch == ())
    np.testing.assert_array_equal(values, gradients.values.numpy())
    assert_near(gradients.values, plan.vjp(v, want).values, 100)
    np.testing.assert_array_equal(torch.from_dlpack(result).numpy(), want)
    if batch:
        with pytest.raises(ValueError, match="v must be C-contiguous"):
            on_gpu.apply(gradients.values)
    del result, gradients
    gc.collect()
    np.testing.assert_array_equal(got, want)  # the view holds the memory
    single = on_gpu.apply(put(v))
    capsule = single.__dlpack__()  # never taken
    del capsule
    with pytest.raises(BufferError):
        single.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        single.__dlpack__(dl_device=(2, 0))


@emulated_only
@pytest.mark.parametrize(
    ("own", "consumer", "waits"),
    [
        (0, None, False),  # the array API standard: None and 1 are the legacy default stream
        (0, 1, False),
        (1, 1, False),
        (5, 5, False),
        (5, -1, False),  # the consumer asks not to wait
        (5, None, True),
        (5, 1, True),
        (5, 2, True),
        (0, 5, True),
    ],
)
def test_dlpack_waits_for_the_stream_of_the_array(own, consumer, waits, monkeypatch):
    array = laplex.cuda.Array((3,), np.dtype(np.float32), own)
    waited = []
    monkeypatch.setattr(_core, "cuda_synchronize", waited.append)
    array.__dlpack__(stream=consumer)
    assert waited == ([own] if waits else [])


@gpu_only
def test_a_tensor_from_dlpack_is_ready_on_any_stream():
    x = owned(np.random.default_rng(0).random(1_000_000))
    own, other = torch.cuda.Stream(), torch.cuda.Stream()
    result = laplex.cuda.Plan(x, stream=own).apply(x, stream=own)
    with torch.cuda.stream(other):
        got = torch.from_dlpack(result) + 0
    torch.cuda.synchronize()
    assert torch.equal(got, torch.from_dlpack(laplex.cuda.Plan(x).apply(x)))


@on_device
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays(dtype, shape):
    array = laplex.cuda.Array(shape, np.dtype(dtype), None)
    filled = random(shape, np.float64).astype(dtype)
    if filled.size:
        array._memory.copy_from_host(_core.address(filled))
    assert array.numpy().shape == shape
    np.testing.assert_array_equal(array.numpy(), filled)
    assert array.nbytes == filled.nbytes
    assert array.ndim == filled.ndim
    assert repr(array) == f"laplex.cuda.Array(shape={shape}, dtype={np.dtype(dtype)})"
    interface = array.__cuda_array_interface__
    assert interface["typestr"] == filled.dtype.str
    assert interface["shape"] == shape
    assert interface["strides"] is None
    assert torch.from_dlpack(array).shape == shape
    for axes in itertools.permutations(range(len(shape))):
        turned = laplex.cuda.Array(shape, np.dtype(dtype), None, axes)
        if filled.size:
            laid = np.ascontiguousarray(filled.transpose(axes))
            turned._memory.copy_from_host(_core.address(laid))
        np.testing.assert_array_equal(turned.numpy(), filled)
        np.testing.assert_array_equal(torch.from_dlpack(turned).cpu().numpy(), filled)


@gpu_only
def test_streams():
    x = torch.rand(1_000_000, dtype=torch.float64, device="cuda")
    v = torch.randn_like(x)
    want = laplex.cuda.Plan(x).apply(v)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # PyTorch's current stream is the default
        inside = laplex.cuda.Plan(x).apply(v)
    given = laplex.cuda.Plan(x, stream=stream).apply(v, stream=stream)
    stream.synchronize()
    assert torch.equal(inside, want)
    assert torch.equal(given, want)


@emulated_only
def test_what_the_core_is_lent(monkeypatch):
    lent = []
    new = laplex.cuda.interchange.new_array

    def spy(like, shape, dtype, *rest):
        if dtype == np.uint8:
            lent.append(shape[0])
        return new(like, shape, dtype, *rest)

    monkeypatch.setattr(laplex.cuda.interchange, "new_array", spy)
    x = torch.rand(9000, dtype=torch.float64)
    plan = laplex.cuda.Plan(x)
    scratch = 36352  # an index of 4 bytes an anchor, and what the sort takes
    assert lent == [plan.nbytes - 8, scratch]  # beside a lengthscale
    assert lent[0] == 108544
    values = torch.randn(9000, dtype=torch.float64)
    lent.clear()
    want = laplex.cuda.Plan(Interface(x.numpy())).apply(Interface(values.numpy()))
    assert lent == []  # of a library without a pool
    np.testing.assert_array_equal(plan.apply(values).numpy(), want.numpy())
    assert lent == [plan._core.workspace_bytes(1, False, PRODUCT)]
    lent.clear()
    plan.vjp(values, values)
    plan.update(x + 1)
    assert lent == [
        8 * 9000,  # what the sources add to the targets' gradient
        plan._core.gradient_workspace_bytes(1, False, PRODUCT),
    ], "an order that is still right takes no scratch"
    plan.update(-x)
    assert lent[2:] == [scratch]
    lent.clear()
    plan = laplex.cuda.Plan(x.sort().values)
    assert len(lent) == 1, "nor do anchors that ascend"


@emulated_only
def test_in_a_capture(monkeypatch):
    x, v = np.arange(5.0), np.ones(5)
    plan = laplex.cuda.Plan(Interface(x))
    monkeypatch.setattr(_core, "cuda_capture_id", lambda stream: 3)
    with pytest.raises(RuntimeError, match="build it before the capture"):
        laplex.cuda.Plan(Interface(x))
    with pytest.raises(RuntimeError, match="pass out, allocated before the capture"):
        plan.apply(Interface(v))
    out = np.empty(5)
    plan.apply(Interface(v), Interface(out))
    plan.update(Interface(x[::-1].copy()))
    ones = torch.ones(5, dtype=torch.float64)
    assert out[0] == plan.apply(ones)[4]
    made = []
    home = laplex.cuda.plan
    new = home.new_array
    monkeypatch.setattr(home, "new_array", lambda *args: made.append(new(*args)) or made[-1])
    gradients = plan.vjp(ones, ones)
    kept = {id(each) for each in gradients}
    assert made
    assert all(id(array) in kept for array, _ in made), "memory of a pool was let go"
    with pytest.raises(
        RuntimeError, match="v belongs to another stream than the one that is captured"
    ):
        plan.apply(Interface(v, stream=9), Interface(out), stream=8)


@emulated_only
def test_addresses_that_do_not_fit():
    bytes_ = np.zeros(8 * 5 + 4, np.uint8)
    odd = bytes_[2:42].view(np.float64)
    with pytest.raises(
        ValueError, match="targets starts at an address that is not a multiple of 8"
    ):
        laplex.cuda.Plan(Interface(odd))
    plan = laplex.cuda.Plan(Interface(np.arange(5.0, dtype=np.float32)))
    fits = np.zeros(44, np.uint8)
    start = 4 if fits.ctypes.data % 8 == 0 else 0
    half_way = fits[start : start + 40].view(np.complex64)
    plan.apply(Interface(half_way))


@emulated_only
def test_arrays_of_another_gpu_and_arrays_that_name_no_stream(monkeypatch):
    class Elsewhere(Interface):
        def __dlpack_device__(self):
            return (2, 3)

    with pytest.raises(ValueError, match="targets is on GPU 3, but the current GPU is 0: make"):
        laplex.cuda.Plan(Elsewhere(np.arange(3.0)))

    class Unready(Interface):  # as JAX's arrays are: version 2, and a DLPack that waits
        waited = 0

        def __init__(self, array):
            super().__init__(array, version=2)

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, *, stream):
            assert stream == 1
            Unready.waited += 1
            return self.array.__dlpack__()

    x = np.arange(3.0)
    plan = laplex.cuda.Plan(Unready(x))
    assert Unready.waited == 1
    np.testing.assert_array_equal(plan.apply(Unready(x)).numpy(), plan.apply(Interface(x)).numpy())


def test_without_a_device():
    if _core.has_cuda and laplex.cuda.device_count() > 0:
        pytest.skip("there is one")
    assert laplex.cuda.device_count() == 0
    with pytest.raises(RuntimeError) as sentence:
        _core.cuda_require_device()
    with pytest.raises(RuntimeError) as raised:
        laplex.cuda.Plan(Interface(np.arange(3.0)))
    assert str(raised.value) == str(sentence.value)
