"""Stand-in for the core's plan with a share, until there is one: a whole plan on every rank."""
import ctypes
import numpy as np
from laplex import _core
from laplex._support.core import Gradients, Second, Vectors

def read(address, dtype, count):
    dtype = np.dtype(dtype)
    if address in (0, 1) or count == 0:
        return np.zeros(count, dtype)
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)

class WholePlan:
    def __init__(self, kernel, threads, share=None):
        rank, size, offset, total, nxt, gather = share
        k = kernel
        self.real = np.dtype(np.float64 if k.is_double else np.float32)
        self.cplx = np.dtype(np.complex128 if k.is_double else np.complex64)
        self.g = gather
        self.rank, self.size = rank, size
        self.is_self = not k.sources
        c = gather(np.array([k.n, k.m], float), [2] * size).reshape(size, 2).astype(int)
        self.c = c
        self.N, self.M = c.sum(0)
        if self.is_self: assert offset == c[:rank, 0].sum() and total == self.N
        else: assert offset == c[:rank].sum() and total == self.N + self.M
        def whole(a, side):
            if not a: return None
            n = (k.n, k.m)[side]
            return self.gather(read(a, self.real, n)[None], side)[0]
        x, y = whole(k.targets, 0), whole(k.sources, 1)
        th, ph = whole(k.target_phase, 0), whole(k.source_phase, 1)
        assert (np.diff(x) >= 0).all()
        own = np.concatenate([x[c[:r+1,0].sum():c[:r+2,0].sum()] if y is None else np.concatenate([x[c[:r+1,0].sum():c[:r+2,0].sum()], y[c[:r+1,1].sum():c[:r+2,1].sum()]]) for r in [rank]]) if False else None
        later = np.concatenate([x[c[:rank+1,0].sum():], [] if y is None else y[c[:rank+1,1].sum():]])
        assert (nxt is None) == (not len(later)) and (nxt is None or nxt == later.min()), (nxt, later[:3])
        mine = np.concatenate([x[:c[:rank+1,0].sum()], [] if y is None else y[:c[:rank+1,1].sum()]])
        assert not len(mine) or nxt is None or mine.max() < nxt
        self.arrays = (x, y, th, ph)
        a = lambda z: 0 if z is None else _core.address(z) or 1
        self.core = _core.Plan(k._replace(n=self.N, m=self.M, targets=a(x), sources=a(y), target_phase=a(th), source_phase=a(ph)), threads)
        self.nbytes = self.core.nbytes
        self.kernel = k
        self.complex = bool(k.frequency or th is not None or ph is not None) and not k.real_part

    def gather(self, v, side):
        """[rows, local] -> [rows, whole]"""
        counts = self.c[:, side]
        if v.dtype.kind == "c":
            return (self.gather(v.real.astype(self.real), side) + 1j * self.gather(v.imag.astype(self.real), side)).astype(self.cplx)
        rows = len(v)
        every = self.g(np.ascontiguousarray(v, np.float64).ravel(), [int(rows * n) for n in counts])
        parts = np.split(every, np.cumsum(rows * counts)[:-1])
        return np.concatenate([p.reshape(rows, n) for p, n in zip(parts, counts)], 1).astype(v.dtype)

    def mine(self, w, side):
        return w[..., self.c[:self.rank, side].sum():self.c[:self.rank + 1, side].sum()]

    def values(self, v, rows, side):
        n = int(self.c[self.rank, side])
        return self.gather(read(v.address, self.cplx if v.is_complex else self.real, rows * n).reshape(rows, n), side)

    def write(self, address, whole, side):
        if not address: return
        part = np.ascontiguousarray(self.mine(whole, side))
        if part.size: ctypes.memmove(address, part.ctypes.data, part.nbytes)

    @staticmethod
    def vec(a):
        return Vectors(_core.address(a) or 1, a.dtype.kind == "c", 0, a.shape[-1])

    def sum(self, v, rows, out, mode, term, threads):
        a, b = (1, 0) if mode == 0 else (0, 1)
        w = self.values(v, rows, a)
        u = np.empty((rows, (self.N, self.M)[b]), self.cplx if out.is_complex else self.real)
        self.core.sum(self.vec(w), rows, self.vec(u), mode, term, threads)
        self.write(out.address, u, b)

    def half_sums(self, v, rows, left, right, threads):
        w = self.values(v, rows, 1)
        l, r = (np.empty((rows, self.N), self.cplx if left.is_complex else self.real) for _ in range(2))
        self.core.half_sums(self.vec(w), rows, self.vec(l), self.vec(r), threads)
        self.write(left.address, l, 0); self.write(right.address, r, 0)

    def vjp(self, v, g, rows, out, term, threads):
        w, h = self.values(v, rows, 1), self.values(g, rows, 0)
        f = [np.empty_like(w), np.empty(self.N, self.real), np.empty(self.M, self.real), np.empty(()), np.empty(()), np.empty(self.N, self.real), np.empty(self.M, self.real)]
        self.core.vjp(self.vec(w), self.vec(h), rows, Gradients(*(_core.address(e) or 1 if o else 0 for e, o in zip(f, out))), term, threads)
        for e, o, s in zip(f, out, (1, 0, 1, None, None, 0, 1)):
            if s is None:
                if o: ctypes.memmove(o, e.ctypes.data, 8)
            else: self.write(o, e, s)

    def second_vjp(self, v, g, rows, cot, out, threads):
        w, h = self.values(v, rows, 1), self.values(g, rows, 0)
        n, m = map(int, self.c[self.rank])
        a = self.gather(read(cot.values, self.real, rows * m).reshape(rows, m), 1)
        b = self.gather(read(cot.targets, self.real, n)[None], 0)[0]
        c = self.gather(read(cot.sources, self.real, m)[None], 1)[0]
        e = read(cot.lengthscale, float, 1).copy()
        f = [np.zeros_like(h), np.zeros_like(a), np.zeros_like(b), np.zeros_like(c), np.zeros(1)]
        ad = lambda z: _core.address(z) or 1
        self.core.second_vjp(self.vec(w), self.vec(h), rows, Second(0, ad(a), ad(b), ad(c), ad(e)), Second(*map(ad, f)), threads)
        for z, o, s in zip(f, out, (0, 1, 0, 1, None)):
            if s is None:
                if o: ctypes.memmove(o, z.ctypes.data, 8)
            else: self.write(o, z, s)

def install():
    import laplex.distributed.part as part

    class Core:
        Plan = WholePlan
        address = staticmethod(_core.address)

    part._core = Core
