# SPDX-License-Identifier: Apache-2.0
"""The page to watch and operate an arm with: a node, its web server and the page."""
