# SPDX-License-Identifier: Apache-2.0
"""What lies in recordings, data sets and checkpoints, without a contract; and drafts of one."""
