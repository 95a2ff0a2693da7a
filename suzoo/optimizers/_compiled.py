"""Functions of tensors as kernels, compiled by torch's inductor for the sizes they meet: all of torch that is private.

torch.compile does the same and checks before every call that nothing has changed. A pass over memory empties the
processor's cache, and then these checks cost half as much as the update of a small matrix. Here all that can change is
in the key of the kernel, and inductor is called without dynamo and autograd around it.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

OPTIONS = {
    # casts as in eager mode: inductor else drops the rounding to bf16 whose error Kahan's sum keeps
    "emulate_precision_casts": True,
    # no trial builds (6 s) with the processor's vector instructions: torch's headers already need a compiler of C++20
    "cpp.vec_isa_ok": True,
    # sizes are in the key
    "size_asserts": False,
}

TESTED = "2.13"  # the versions of torch whose private modules have what is taken from them here
HALVES = (torch.bfloat16, torch.float16)
_kernels: dict[tuple, Callable] = {}

# `torch.compile` leaves a function with this mark as it is. (The public `torch.compiler.disable` imports the compiler,
# which takes seconds, where the function is defined; this imports it where it is called.)
run_eagerly = torch._disable_dynamo
_FOLDERS = (os.path.dirname(__file__), os.path.dirname(torch.__file__))


def warn(text: str) -> None:
    """Of the line that called `step`: torch wraps that in as many frames as it likes."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


@functools.cache
def _imports_work() -> bool:
    try:
        _private()
    except (ImportError, AttributeError) as error:
        warn(
            f"compile=True has no effect with torch {torch.__version__}, which has moved what it needs ({error}); "
            f"torch {TESTED} is tested"
        )
        return False
    return True


@functools.cache
def _rounds_halves() -> bool:
    """Whether a kernel on a CPU rounds as eager mode does: torch 2.10 takes "emulate_precision_casts" and does not."""
    if torch.__version__ >= "2.13":
        return True
    warn(f"compile=True has no effect on bf16 and fp16 with torch {torch.__version__}: its kernels drop roundings that "
         "Kahan's sum needs; torch 2.13 keeps them")  # fmt: skip
    return False


def _private() -> SimpleNamespace:
    """What compiles; it takes a second to import, which nobody pays who does not compile."""
    import torch._inductor.config
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.exc import InductorError, InvalidCxxCompiler
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return SimpleNamespace(
        FakeTensorMode=FakeTensorMode,
        InductorError=InductorError,
        InvalidCxxCompiler=InvalidCxxCompiler,
        ShapeEnv=ShapeEnv,
        TracingContext=TracingContext,
        compile_fx_inner=compile_fx_inner,
        config=torch._inductor.config,
        make_fx=make_fx,
        select_decomp_table=select_decomp_table,
        tracing=tracing,
    )


@functools.cache
def flat_shape(numel: int) -> torch.Size:
    """Shape of a flat tensor in a kernel: inductor sums a long vector by a cascade, four times as slow as rows."""
    columns = max(n for n in range(1, 1025) if numel % n == 0)
    return torch.Size((numel // columns, columns))


def num_kernels() -> int:
    """Kernels compiled (or taken from torch's cache on disk) by this process."""
    return len(_kernels)


def compiled(
    function: Callable, tensors: dict[str, Tensor], options: dict[str, Any], *, flat: bool = False
) -> Callable[[], object] | None:
    """`function(**tensors, **options)` as a kernel, ready to be called once. It writes into the tensors, which must not
    overlap. None where this version of torch has moved what compiles it or rounds otherwise: the plain form is slower
    and as good.

    One kernel for every combination of sizes and options: what changes from step to step has to be a tensor.

    Args:
        function: of module level; what it returns is not used.
        tensors: on one device. options: hashable.
        flat: the function sees contiguous tensors in the `flat_shape` of the first one, and beside it tensors of one
            number per row: one kernel for all shapes of one size.
    """
    given = list(tensors.values())
    if not _imports_work() or (any(t.dtype in HALVES for t in given) and not _rounds_halves()):
        return None
    if flat:
        sizes = [(t.dim() and t.numel(), t.dtype) for t in given]
    else:
        sizes = [(t.shape, t.stride(), t.dtype) for t in given]
    key = (function, given[0].device, torch.get_num_threads(), flat, *tensors, *sizes, *options.items())
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = _compile(function, tensors, options, flat)
    return lambda: kernel(given)


def _compile(function: Callable, tensors: dict[str, Tensor], options: dict[str, Any], flat: bool) -> Callable:
    """A callable of the list of the tensors, which it empties."""
    private = _private()

    def call(*given: Tensor) -> tuple:
        function(**dict(zip(tensors, given, strict=True)), **options)
        return ()

    # torch's decompositions make constants outside of the mode
    mode = private.FakeTensorMode(shape_env=private.ShapeEnv(), allow_non_fake_inputs=True)
    # a kernel reads at addresses and does not ask again whether there is a vector
    seen = list(tensors.values())
    if flat:
        rows, _ = flat_shape(seen[0].numel())
        seen = [t.view(rows, -1) if t.dim() else t for t in seen]
    # static shapes: a kernel for any size divides integers in its loop bound, which costs more than the arithmetic.
    # One fake for each: two equal numbers are one tensor today, and need not be tomorrow
    with mode:
        given: list = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in seen]
    # inside the context torch's cache on disk knows the graph again
    with torch.no_grad(), private.tracing(private.TracingContext(mode)), private.config.patch(OPTIONS):
        pure = torch.func.functionalize(call, remove="mutations")
        trace = private.make_fx(pure, decomposition_table=private.select_decomp_table())
        graph = trace(*given)
        try:
            return private.compile_fx_inner(graph, given)
        except (private.InductorError, private.InvalidCxxCompiler) as error:
            raise RuntimeError(
                f"torch could not compile an optimizer's kernel and said: {str(error).splitlines()[0]}. compile=True "
                "needs a C++ compiler with Python's headers on a CPU (g++, or what CXX names) or Triton on a GPU; "
                "compile=False does without"
            ) from error


def stored(tensor: Tensor) -> Tensor:
    """The same tensor, which a compiled function is to keep: inductor computes a cheap one anew for every reader, a
    root for every element of a matrix."""
    return tensor.as_strided(tensor.shape, tensor.stride())


@functools.lru_cache(maxsize=64)
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number (no tensor, whose value may change) as `compiled` takes it, 0-d; not to be written to."""
    return torch.full((), value, dtype=dtype, device=device)
