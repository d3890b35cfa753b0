"""What a network frees stays with the process."""

import platform
import resource

import pytest
import torch

from model.allocator import keep_freed_memory
from tests.forked import Child

NUMBERS = 16_000_000
TIMES = 20


def count_faults() -> None:
    """Make and drop a tensor of 64 MB again and again."""
    keep_freed_memory()
    # The first ones leave holes that are a little too small for the next.
    for _ in range(TIMES):
        torch.ones(NUMBERS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        torch.ones(NUMBERS)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_a_tensor_of_the_size_of_the_last_costs_no_page_faults() -> None:
    with Child(count_faults) as child:
        faults = int(child.stdout.readline())
    assert faults < TIMES * 4 * NUMBERS / resource.getpagesize() / 100
