# SPDX-License-Identifier: Apache-2.0
"""Generated stubs of the inference contract; see proto/."""
