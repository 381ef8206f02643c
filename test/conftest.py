# SPDX-License-Identifier: Apache-2.0
"""The same examples in every run, whatever the machine's speed: a law that fails here fails everywhere."""

from hypothesis import settings

settings.register_profile("laws", derandomize=True, deadline=None, database=None)
settings.load_profile("laws")
