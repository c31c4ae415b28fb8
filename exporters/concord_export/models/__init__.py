# SPDX-License-Identifier: Apache-2.0
"""The demo's models: each module trains one on scikit-learn's bundled data and hands it over by `source()`."""
