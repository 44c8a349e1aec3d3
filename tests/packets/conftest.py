"""The filter in the kernel, for those who may load it."""

from tests.adapters.nlb.conftest import kernel_filter as kernel_filter
