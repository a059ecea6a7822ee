"""Adapter fine-tuning studies that can be rebuilt: fetch, prompts, audit, base, train, generate, score, report."""

import logging

# peft imports bitsandbytes. On a CPU with bfloat16 instructions, bitsandbytes then looks for a kernel on the hub and warns
# that it failed. The kernel is optional, and its code is not pinned.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
