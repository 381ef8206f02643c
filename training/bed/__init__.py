# SPDX-License-Identifier: Apache-2.0
"""The test bed, storey A: tasks in which each part has a job, with the scene as tokens instead of pictures."""
