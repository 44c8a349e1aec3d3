"""The packet filter: one C core (``core/``), in the extension and in the kernel; see ``core/nlb_filter.h``.

``binding.py`` is what Python uses; ``attach.c`` meets the kernel, ``xdp.c`` is what runs in it, ``native.c`` lets the
same decisions be made here.
"""
