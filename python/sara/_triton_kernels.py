"""Triton's kernels of the flat tensors. follow and adamw have one program for each block of BLOCK
entries, which belong to one parameter; they read and write its bits by its address."""
import triton
import triton.language as tl


# ----------------------------------------------------------------------------------- within a block

@triton.jit
def _place(owners, table, T: tl.constexpr, BLOCK: tl.constexpr):
    """Where this program's block begins in the flat; the parameter's address; how many entries from
    there on are the parameter's."""
    block = tl.program_id(0)
    row = table + tl.load(owners + block) * 3
    address, left = tl.load(row), tl.load(row + 2) - (block - tl.load(row + 1)) * BLOCK
    if T == tl.float32:
        parameter = address.to(tl.pointer_type(tl.int32))
    else:
        parameter = address.to(tl.pointer_type(tl.int16))
    return block.to(tl.int64) * BLOCK, parameter, left


@triton.jit
def _rounded(values, T: tl.constexpr):
    """Bits of float32 values in the dtype T. Those of bfloat16 are made by hand, as the interpreter
    truncates."""
    bits = values.to(tl.int32, bitcast=True)
    if T == tl.bfloat16:
        even = bits + 0x7FFF + ((bits >> 16) & 1)
        bits = (tl.where(values == values, even, 0x7FC00000) >> 16).to(tl.int16)
    elif T == tl.float16:
        bits = values.to(tl.float16).to(tl.int16, bitcast=True)
    return bits


@triton.jit
def _widened(bits, T: tl.constexpr):
    if T == tl.bfloat16:
        values = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        values = bits.to(T, bitcast=True).to(tl.float32)
    return values


@triton.jit
def _mark(values, BLOCK: tl.constexpr):
    """Of include/sara_tensors.h; 506952113 is 2654435761 modulo 2^31."""
    weights = (((tl.arange(0, BLOCK) + 1).to(tl.int64) * 506952113) & 0x7FFFFFFF) | 1
    return tl.sum(values.to(tl.int32, bitcast=True).to(tl.int64) * weights, 0)


# ------------------------------------------------------------------------------------------ kernels

@triton.jit(do_not_specialize=["count"])
def gather(gradient, dense, positions, count, ADDS: tl.constexpr, SPAN: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * SPAN + tl.arange(0, SPAN)
    used = i < count
    own = tl.load(dense + tl.load(positions + i, mask=used, other=0), mask=used).to(tl.float32)
    if ADDS:
        own += tl.load(gradient + i, mask=used)
    tl.store(gradient + i, own, mask=used)


@triton.jit(do_not_specialize=["size"])
def squares(sums, gradient, size, SPAN: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * SPAN + tl.arange(0, SPAN)
    own = tl.load(gradient + i, mask=i < size, other=0.0).to(tl.float64)
    tl.store(sums + tl.program_id(0), tl.sum(own * own, 0))


@triton.jit
def marks(result, values, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    own = tl.load(values + block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK))
    tl.store(result + block, _mark(own, BLOCK))


@triton.jit
def follow(values, marks, positions, owners, table, T: tl.constexpr, BLOCK: tl.constexpr):
    first, parameter, left = _place(owners, table, T, BLOCK)
    within = tl.arange(0, BLOCK)
    i = first + within
    mark = marks + tl.program_id(0)
    own, marked = tl.load(values + i), tl.load(mark)
    held = tl.load(parameter + tl.load(positions + i), mask=within < left, other=0)
    unwritten = _mark(own, BLOCK) == marked
    takes = (within < tl.where(unwritten, left, 0)) & (held != _rounded(own, T))
    new = tl.where(takes, _widened(held, T), own)
    tl.store(values + i, new, mask=takes)
    tl.store(mark, tl.where(unwritten, _mark(new, BLOCK), marked))


@triton.jit(do_not_specialize=["rank_first", "rank_count"])
def adamw(values, gradient, moment1, moment2, positions, marks, owners, table,  # the flat's
          steps, skipped, clip,  # of one entry each; the last two may be None
          rank, rank_first, rank_count,  # the low-rank term's gradient, where it lies, or None
          rank_weight, factor, beta1, rest1, log1, beta2, rest2, log2, eps, decay, rate,
          T: tl.constexpr, BLOCK: tl.constexpr):
    first, parameter, left = _place(owners, table, T, BLOCK)
    within = tl.arange(0, BLOCK)
    i = first + within
    old, old1, old2 = tl.load(values + i), tl.load(moment1 + i), tl.load(moment2 + i)
    g = tl.load(gradient + i) * factor
    if clip is not None:
        g *= tl.load(clip).to(tl.float32)
    if rank is not None:
        at = i - rank_first
        g += tl.load(rank + at, mask=(at >= 0) & (at < rank_count), other=0.0) * rank_weight
    step = tl.load(steps).to(tl.float64)
    correction1 = (1 - tl.exp(step * log1)).to(tl.float32)
    correction2 = tl.sqrt(1 - tl.exp(step * log2)).to(tl.float32)
    m1 = old1 * beta1 + g * rest1
    m2 = old2 * beta2 + g * g * rest2
    change = tl.div_rn(rate / correction1 * m1, tl.div_rn(tl.sqrt_rn(m2), correction2) + eps)
    changes = within < left
    if skipped is not None:
        changes = within < tl.where(tl.load(skipped) == 0, left, 0)
    new = tl.where(changes, old * decay - change, old)
    tl.store(values + i, new, mask=changes)
    tl.store(moment1 + i, m1, mask=changes)
    tl.store(moment2 + i, m2, mask=changes)
    tl.store(parameter + tl.load(positions + i), _rounded(new, T), mask=within < left)
    tl.store(marks + tl.program_id(0), _mark(new, BLOCK), mask=left > 0)
