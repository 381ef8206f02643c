# SPDX-License-Identifier: Apache-2.0
"""Which of its inputs a policy uses: pictures, text and memory are exchanged and its actions compared."""
