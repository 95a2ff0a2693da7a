"""Functions of tensors as kernels, compiled by torch's inductor for the sizes they meet: all of torch that is private.

torch.compile does the same and checks before every call that nothing has changed: with an interpreter that a pass over
memory has driven out of the cache, that costs as much as half the work on a small matrix. Here all that can change is
in the key of the kernel, and inductor is called without dynamo and autograd around it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace

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
_kernels: dict[tuple, Callable] = {}

# `torch.compile` leaves a function with this mark as it is. (The public `torch.compiler.disable` imports the compiler,
# which takes seconds, where the function is defined; this imports it where it is called.)
run_eagerly = torch._disable_dynamo


@functools.cache
def _imports_work() -> bool:
    try:
        _private()
    except (ImportError, AttributeError) as error:
        warnings.warn(
            f"compile=True has no effect with torch {torch.__version__}, which has moved what it needs ({error}); "
            f"torch {TESTED} is tested",
            stacklevel=6,
        )
        return False
    return True


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
    function: Callable, tensors: Sequence[Tensor | None], *, flat: bool = False, **options: object
) -> Callable[[], object] | None:
    """`function(*tensors, **options)` as a kernel, ready to be called once. It writes into the tensors, which must not
    overlap. None where this version of torch has moved what compiles it: the plain form is slower and as good.

    One kernel for every combination of sizes and options: what changes from step to step has to be a tensor.

    Args:
        function: of module level; what it returns is not used.
        tensors: on one device; None is handed on. options: hashable.
        flat: the function sees contiguous tensors in the `flat_shape` of the first one, and beside it tensors of one
            number per row: one kernel for all shapes of one size.
    """
    given = [t for t in tensors if t is not None]
    if flat:
        sizes = [t if t is None else (t.dim() and t.numel(), t.dtype) for t in tensors]
    else:
        sizes = [t if t is None else (t.shape, t.stride(), t.dtype) for t in tensors]
    if not _imports_work():
        return None
    key = (function, given[0].device, torch.get_num_threads(), flat, *sizes, *options.items())
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = _compile(function, tensors, flat, options)
    return lambda: kernel(given)


def _compile(function: Callable, tensors: Sequence[Tensor | None], flat: bool, options: dict[str, object]) -> Callable:
    """A callable of the list of the tensors without None, which it empties."""
    private = _private()

    def call(*given: Tensor) -> tuple:
        taken = iter(given)
        function(*(None if t is None else next(taken) for t in tensors), **options)
        return ()

    # torch's decompositions make constants outside of the mode
    mode = private.FakeTensorMode(shape_env=private.ShapeEnv(), allow_non_fake_inputs=True)
    # a kernel reads at addresses and does not ask again whether there is a vector
    seen = [t for t in tensors if t is not None]
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
                "an optimizer with compile=True needs a C++ compiler with Python's headers on a CPU (g++, or what CXX "
                f"names) or Triton on a GPU; compile=False does without. torch said: {str(error).splitlines()[0]}"
            ) from error


def stored(tensor: Tensor) -> Tensor:
    """The same tensor, which a compiled function is to keep: inductor computes a cheap one anew for every reader, a
    root for every element of a matrix."""
    return tensor.as_strided(tensor.shape, tensor.stride())


@functools.lru_cache(maxsize=64)
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number (no tensor, whose value may change) as `compiled` takes it, 0-d; not to be written to."""
    return torch.full((), value, dtype=dtype, device=device)
