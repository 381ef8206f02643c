# SPDX-License-Identifier: Apache-2.0
"""One policy loop: ticks in, chunks out. Every driver (live, replay, simulator, shards) runs this one."""
