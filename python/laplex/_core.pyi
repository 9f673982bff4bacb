"""The compiled core: plans over raw addresses, see python/bindings."""

from typing import TypedDict

from ._support.core import Gradients, Kernel, Memory, Vectors

__version__: str
has_cuda: bool

class Plan:
    def __init__(self, kernel: Kernel, num_threads: int, /) -> None: ...
    def sum(
        self,
        values: Vectors,
        rows: int,
        out: Vectors,
        mode: int,
        parity: int,
        moment: int,
        num_threads: int,
        /,
    ) -> None: ...
    def half_sums(
        self, values: Vectors, rows: int, left: Vectors, right: Vectors, num_threads: int, /
    ) -> None: ...
    def vjp(
        self, values: Vectors, grad: Vectors, rows: int, gradients: Gradients, num_threads: int, /
    ) -> None: ...
    def update(self, targets: int, sources: int, num_threads: int, /) -> None: ...
    def anchors(self, targets: int, sources: int, /) -> None: ...
    def to_dense(self, out: int, out_complex: bool, /) -> None: ...
    def rank(self) -> list[int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def sources(self) -> int: ...
    @property
    def is_self(self) -> bool: ...

class DirectCalls:
    def __init__(self, api: object, types: tuple[type, ...], /) -> None: ...
    def signature(
        self, tensors: tuple[object, ...], /
    ) -> tuple[tuple[int, ...], tuple[int, ...], int, int, bool, bool] | None: ...
    def product(
        self,
        tensors: tuple[object, ...],
        real_part: bool,
        parity: int,
        moment: int,
        out: object,
        num_threads: int,
        /,
    ) -> Plan: ...
    def vjp(
        self,
        plan: Plan,
        tensors: tuple[object, ...],
        grad: object,
        out: tuple[object, ...],
        num_threads: int,
        /,
    ) -> bool: ...

class CudaPlan:  # there if has_cuda
    def __init__(
        self, kernel: Kernel, stream: int, storage: Memory, scratch: Memory, /
    ) -> None: ...
    def with_parameters(self, kernel: Kernel, /) -> CudaPlan: ...
    def update(self, targets: int, sources: int, stream: int, scratch: Memory, /) -> None: ...
    def holds(self, targets: int, sources: int, stream: int, scratch: Memory, /) -> bool: ...
    def sum(
        self,
        values: Vectors,
        rows: int,
        out: Vectors,
        storage: int,
        mode: int,
        parity: int,
        moment: int,
        stream: int,
        workspace: Memory,
        /,
    ) -> None: ...
    def half_sums(
        self,
        values: Vectors,
        rows: int,
        left: Vectors,
        right: Vectors,
        stream: int,
        workspace: Memory,
        /,
    ) -> None: ...
    def vjp(
        self,
        values: Vectors,
        grad: Vectors,
        rows: int,
        gradients: Gradients,
        stream: int,
        workspace: Memory,
        /,
    ) -> None: ...
    def anchors(self, targets: int, sources: int, stream: int, /) -> None: ...
    def workspace_bytes(self, rows: int, values_complex: bool, moment: int, /) -> int: ...
    def gradient_workspace_bytes(self, rows: int, values_complex: bool, /) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def is_sorted(self) -> bool: ...

class CudaGram:  # there if has_cuda
    def __init__(
        self,
        batch: int,
        n: int,
        width: int,
        anchors_ptr: int,
        lengthscale_ptr: int,
        loadings_ptr: int,
        noise_ptr: int,
        ties_backwards: bool,
        stream: int,
        storage_ptr: int,
        storage_bytes: int,
        scratch_ptr: int,
        scratch_bytes: int,
        /,
    ) -> None: ...
    def apply(
        self,
        factor: int,
        scaled: bool,
        inputs: int,
        out: int,
        rows: int,
        stream: int,
        workspace_ptr: int,
        workspace_bytes: int,
        /,
    ) -> None: ...
    def solve(
        self, b: int, x: int, rows: int, stream: int, workspace_ptr: int, workspace_bytes: int, /
    ) -> None: ...
    def log_prob(
        self, v: int, out: int, rows: int, stream: int, workspace_ptr: int, workspace_bytes: int, /
    ) -> None: ...
    def logdet(
        self, out: int, stream: int, workspace_ptr: int, workspace_bytes: int, /
    ) -> None: ...
    def vjp(
        self,
        a: int,
        b: int,
        rows: int,
        w: int,
        d_anchors: int,
        d_lengthscale: int,
        d_loadings: int,
        d_noise: int,
        d_b: int,
        stream: int,
        workspace_ptr: int,
        workspace_bytes: int,
        /,
    ) -> None: ...
    def vjp_tangent(
        self,
        a: int,
        b: int,
        rows: int,
        w: int,
        t_anchors: int,
        t_lengthscale: int,
        t_loadings: int,
        t_noise: int,
        d_anchors: int,
        d_lengthscale: int,
        d_loadings: int,
        d_noise: int,
        d_a: int,
        d_b: int,
        d_w: int,
        stream: int,
        workspace_ptr: int,
        workspace_bytes: int,
        /,
    ) -> None: ...
    def log_variances(self, out: int, stream: int, /) -> None: ...
    def order(self, out: int, stream: int, /) -> None: ...
    @staticmethod
    def storage_bytes(batch: int, n: int, width: int, /) -> int: ...
    @staticmethod
    def scratch_bytes(batch: int, n: int, width: int, /) -> int: ...
    def workspace_bytes(self, rows: int, /) -> int: ...
    def gradient_workspace_bytes(self, rows: int, tangent: bool, /) -> int: ...
    @property
    def has_ties(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

class DeviceArray:  # there if has_cuda
    def __init__(
        self,
        nbytes: int,
        typestr: str,
        shape: list[int],
        strides: list[int],
        stream: int,
        /,
    ) -> None: ...
    def copy_from_host(self, address: int, /) -> None: ...
    def copy_to_host(self, address: int, /) -> None: ...
    def to_dlpack(self) -> object: ...
    @property
    def pointer(self) -> int: ...
    @property
    def device(self) -> int: ...

def read_dlpack(capsule: object, /) -> tuple[int, list[int], list[int] | None, str, int, int]: ...

cuda_emulated: bool

def cuda_synchronize(stream: int, /) -> None: ...
def cuda_add(is_double: bool, to: int, source: int, count: int, stream: int, /) -> None: ...
def cuda_device_count() -> int: ...
def cuda_current_device() -> int: ...
def cuda_capture_id(stream: int, /) -> int | None: ...
def cuda_require_device() -> None: ...
def cuda_storage_bytes(kernel: Kernel, /) -> int: ...
def cuda_scratch_bytes(kernel: Kernel, /) -> int: ...

class _CacheInfo(TypedDict):
    plans: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int

class _Info(TypedDict):
    version: str
    isa: str
    isa_available: list[str]
    threads: int
    compiler: str
    cuda_compiled: bool
    cuda_architectures: str
    cuda_devices: list[str]
    features: list[str]

def address(array: object) -> int: ...
def cached_plan(kernel: Kernel, num_threads: int, /) -> Plan: ...
def plan_cache_clear() -> None: ...
def plan_cache_set_max_bytes(max_bytes: int, /) -> None: ...
def plan_cache_info() -> _CacheInfo: ...
def info() -> _Info: ...
def default_num_threads() -> int: ...

class Gram:
    def __init__(
        self,
        batch: int,
        n: int,
        width: int,
        anchors_ptr: int,
        lengthscale_ptr: int,
        loadings_ptr: int,
        noise_ptr: int,
        ties_backwards: bool,
        num_threads: int,
    ) -> None: ...
    def apply(
        self, factor: int, scaled: bool, inputs: int, out: int, rows: int, num_threads: int, /
    ) -> None: ...
    def solve(self, b: int, x: int, rows: int, num_threads: int, /) -> None: ...
    def log_prob(self, v: int, out: int, rows: int, num_threads: int, /) -> None: ...
    def vjp(
        self,
        a: int,
        b: int,
        rows: int,
        w: int,
        d_anchors: int,
        d_lengthscale: int,
        d_loadings: int,
        d_noise: int,
        d_b: int,
        num_threads: int,
        /,
    ) -> None: ...
    def vjp_tangent(
        self,
        a: int,
        b: int,
        rows: int,
        w: int,
        t_anchors: int,
        t_lengthscale: int,
        t_loadings: int,
        t_noise: int,
        d_anchors: int,
        d_lengthscale: int,
        d_loadings: int,
        d_noise: int,
        d_a: int,
        d_b: int,
        d_w: int,
        num_threads: int,
        /,
    ) -> None: ...
    def log_variances(self, out: int, /) -> None: ...
    def logdet(self, out: int, /) -> None: ...
    def precision(self, diagonal: int, off_diagonal: int, /) -> None: ...
    def order(self, out: int, /) -> None: ...
    @property
    def has_ties(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
