# SPDX-License-Identifier: Apache-2.0
"""What several nodes share: quality of service, parameters, messages, diagnostics, process."""
