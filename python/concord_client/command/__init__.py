# SPDX-License-Identifier: Apache-2.0
"""The command `concord`. Needs click and rich (the extra `cli`); concord_client itself does not.

program      the commands together, and completion scripts
connection   the options that every command has, and the client made of them
catalog      models, describe
predict      predict: one row, or a file of them
chat         chat: a conversation, token by token
health       health
rows         rows out of CSV and JSON
value        a feature's value out of text
bulk         many rows in chunks, several in flight
results      answers into CSV and JSON
screen       tables, progress, and what a terminal may be sent
failure      errors in words, exit codes
suggestion   the name that was meant
completion   what a shell offers
"""

from __future__ import annotations

__all__: list[str] = []
