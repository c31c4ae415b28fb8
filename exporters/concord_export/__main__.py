# SPDX-License-Identifier: Apache-2.0
def main() -> None:
    raise SystemExit("not there yet")
