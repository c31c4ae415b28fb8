# SPDX-License-Identifier: Apache-2.0
"""What a shell offers where TAB is pressed: models and features from the running server, at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    split_arg_string,
)

from concord_client import Client, Feature, Model
from concord_client.command.connection import kept_connection

# Longer than this nobody waits for a TAB.
_SECONDS = 1.5

Item = CompletionItem[str]


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """Ids of models."""
    return [
        CompletionItem(model.model_id, help=_kind(model) or None)
        for model in _asked(context, lambda client: client.models(), [])
        if model.model_id.startswith(incomplete)
    ]


def services(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """Names that the health service knows."""
    found = _asked(context, lambda client: client.models(), [])
    names = ["inference.v1.InferenceService", *(f"models/{model.model_id}" for model in found)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def versions(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """Version numbers and labels of the model."""
    model = _model(context)
    if model is None:
        return []
    items: list[Item] = [CompletionItem(version.version, help=version.state) for version in model.versions]
    items += [CompletionItem(label, help=f"version {number}") for label, number in model.labels.items()]
    return [item for item in items if item.value.startswith(incomplete)]


def values(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """Names of features that are not given yet; behind one, what its value may be."""
    model = _model(context)
    features = _features(model, context.params.get("version") or "") if model is not None else {}
    given = context.params.get("values") or ()
    for name, feature in features.items():
        if incomplete.startswith(f"{name}="):
            choices = ("true", "false") if feature.type == "BOOL" and not feature.shape else ()
            return [CompletionItem(f"{name}={c}") for c in choices if f"{name}={c}".startswith(incomplete)]
    return [
        CompletionItem(f"{name}=", help=_help(feature))
        for name, feature in features.items()
        if name.startswith(incomplete) and not any(value.startswith(f"{name}=") for value in given)
    ]


def _help(feature: Feature) -> str:
    shape = str(list(feature.shape)) if feature.shape else ""
    return " ".join(f"{feature.type}{shape} {feature.description}".split())


def _kind(model: Model) -> str:
    return next((v.kind for v in model.versions if v.version == model.default_version), "")


def _features(model: Model, version: str) -> dict[str, Feature]:
    number = model.labels.get(version, version) if version else model.default_version
    return {f.name: f for v in model.versions if v.version == number for f in v.features}


def _model(context: click.Context) -> Model | None:
    # Behind an option that has no value yet click has not come to name the arguments.
    model_id = context.params.get("model") or next(iter(context.args), None)
    return _asked(context, lambda client: client.model(model_id), None) if model_id else None


def _asked(context: click.Context, question: Callable[[Client], Any], otherwise: Any) -> Any:
    # Whatever goes wrong, a shell wants silence.
    try:
        with kept_connection(context).open(retry=False, deadline=_SECONDS) as client:
            return question(client)
    except Exception:
        return otherwise


_BASH = """\
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                # So that bash quotes blanks and brackets in names.
                [[ $value == *[!A-Za-z0-9_.=/-]* ]] && compopt -o filenames
                [[ $value == *= ]] && compopt -o nospace ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_CWORD="$2" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(BashComplete):
    """Bash parts words at ":" and "=", HOST:PORT and name=value too. So the line itself is read here, and of each
    candidate what bash does not take for the current word is left out again."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        if line[-1:].isspace() and not line.endswith("\\ ") and not _open_quote(line):
            return words[1:], ""
        return words[1:-1], words[-1] if len(words) > 1 else ""

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        items = super().get_completions(args, incomplete)
        # The current word as bash sees it, quotes and all.
        current = "".join(split_arg_string(os.environ.get("COMP_CWORD", "")))
        before = incomplete[: len(incomplete) - len(current)] if incomplete.endswith(current) else ""
        for item in items:
            item.value = item.value.removeprefix(before)
        return items


def _open_quote(line: str) -> bool:
    import shlex

    try:
        shlex.split(line)
    except ValueError:
        return True
    return False


def script(program: click.Command, shell: str) -> str:
    """The lines that teach a shell to complete the command."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    return found(program, {}, "concord", "_CONCORD_COMPLETE").source()


SHELLS: Sequence[str] = ("bash", "zsh", "fish")
