"""A kernel that tells which multiprocessors its blocks run on. Triton reads it from this file."""

import triton
import triton.language as tl


@triton.jit
def write_sm(out, spins):
    """Write the id of the block's multiprocessor to out[block], after spinning a little."""
    block = tl.program_id(0)
    sm = tl.inline_asm_elementwise(
        "mov.u32 $0, %smid;", "=r,r", [spins], dtype=tl.int32, is_pure=False, pack=1
    )
    waste = 0.0
    for turn in range(spins):
        waste += tl.sin(waste + turn)
    tl.store(out + block, sm + (waste > 1e30).to(tl.int32))
