# SPDX-License-Identifier: Apache-2.0
"""The models of `make models`: each module makes one, and hands it over by `source()`."""
