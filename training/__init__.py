# SPDX-License-Identifier: Apache-2.0
"""From a data set to a checkpoint: preprocess, losses, train, evaluate; pretrain_mini makes the small base."""
