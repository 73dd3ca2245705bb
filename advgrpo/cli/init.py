"""`advgrpo init` and `advgrpo config pin`: a settings file of one's own, with pinned commits."""

import os
import re
from collections.abc import Iterable
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from advgrpo.cli.options import Overrides, local_path

_HEAD = """\
# Settings of a run. `advgrpo config show --preset {file}` prints all of them, with defaults;
# docs/configuration.md explains each.
"""
_PINNED = re.compile(r"^revisions:.*\n(?:[ \t].*\n|\n(?=[ \t]))*", re.MULTILINE)
_TEST_FRACTION = 0.1


class PromptSets(str, Enum):  # noqa: UP042 - typer shows the values of this kind
    """Prompt sets of `advgrpo.data.prompt_sets`."""

    parti = "parti"


def init(
    preset: Annotated[str, typer.Argument(help="Preset to extend: a name or a YAML file.")],
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help="Training prompts: text, one per line, or a .csv, .tsv, .jsonl, .parquet table.",
        ),
    ] = "",
    test_prompts: Annotated[
        str,
        typer.Option(
            "--test-prompts",
            help="Prompts to evaluate on. Default: a tenth of --prompts, kept out of training.",
        ),
    ] = "",
    prompt_set: Annotated[
        PromptSets | None,
        typer.Option("--prompt-set", help="A published prompt set instead of --prompts."),
    ] = None,
    column: Annotated[
        str, typer.Option("--column", help="Column of the prompts in a table.")
    ] = "Prompt",
    overrides: Overrides = [],
    output: Annotated[
        Path,
        typer.Option("--output", help="YAML file to write; must not exist.", callback=local_path),
    ] = Path("run.yaml"),
) -> None:
    """Write a settings file that extends a preset, with your prompts and pinned commits."""
    from advgrpo.config.preset_files import read_preset
    from advgrpo.config.resolution import apply_overrides, overridden, resolve
    from advgrpo.config.yaml_text import dump_yaml
    from advgrpo.data.prompt_sets import PROMPT_SETS, download_prompt_set
    from advgrpo.errors import ConfigError

    if output.exists():
        raise ConfigError(f"{output} exists", repair="remove it, or choose another --output")
    if output.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--output={output}: is not a YAML file", repair="end it with .yaml")
    # A missing package and wrong keys are reported before files are written and the hub is asked.
    import_module("advgrpo.storage.hub")
    resolve(preset, overrides, needed=())
    # A file is found relative to the one that extends it.
    is_file = preset.endswith((".yaml", ".yml"))
    parent = os.path.relpath(preset, output.parent) if is_file else preset
    settings = read_preset(preset).settings
    apply_overrides(settings, overrides)
    own = {"extends": parent, **overridden(settings, overrides)}
    if prompts and prompt_set:
        raise ConfigError("--prompts and --prompt-set are both given", repair="use one of them")
    if prompt_set:
        source = PROMPT_SETS[prompt_set.value]
        prompts, column = str(download_prompt_set(prompt_set.value)), source.column
        print(f"prompts of {source.url}, licence {source.licence}")
    if prompts and "prompts" in own:
        raise ConfigError(
            "--prompts and --set prompts.* are both given",
            repair="use --prompts and --test-prompts, or --set alone",
        )
    if prompts:
        own["prompts"] = _prompt_files(prompts, test_prompts, column, output)
    text = _HEAD.format(file=output) + dump_yaml(own)
    output.write_text(text, encoding="utf-8")
    print(f"wrote {output}")
    pin(output)
    resolve(str(output))
    print(f"next: advgrpo plan --preset {output}")


def pin(
    file: Annotated[
        Path,
        typer.Argument(help="Settings file, as written by `advgrpo init`.", callback=local_path),
    ],
) -> None:
    """Pin the hub repositories of a settings file to their latest commits.

    Rewrites `revisions` in the file; all else stays as it is. A commit that the file or a preset
    sets at the model itself (`revision`) stays, too.
    """
    from advgrpo.config.preset_files import read_preset
    from advgrpo.config.required import REVISIONS, repositories, unpinned_repositories
    from advgrpo.errors import AdvGrpoError
    from advgrpo.storage.hub import latest_commit

    settings = read_preset(str(file)).settings
    known = dict(settings.pop(REVISIONS, None) or {})
    wanted = unpinned_repositories(settings)
    # Commits of repositories that the settings no longer use are dropped.
    revisions = {name: commit for name, commit in known.items() if name in repositories(settings)}
    failures: dict[str, AdvGrpoError] = {}
    for name in wanted:
        try:
            revisions[name] = latest_commit(name)
        except AdvGrpoError as error:
            failures[name] = error
        else:
            print(f"  {name}: {revisions[name]}")
    # In any case: the commits that the hub did name are kept.
    _write_revisions(file, revisions)
    if failures:
        first = next(iter(failures.values()))
        lines = "".join(f"\n      {name}: COMMIT" for name in failures)
        raise type(first)(
            f"{len(failures)} of {len(wanted)} repositories are not pinned: {first.message}",
            repair=f"{first.repair}; then run `advgrpo config pin {file}`, or write the full "
            f"hashes of commits into {file} below `revisions:`{lines}",
        )


def _write_revisions(file: Path, revisions: dict[str, str]) -> None:
    text = file.read_text("utf-8")
    block = "".join(f"  {name}: {commit}\n" for name, commit in sorted(revisions.items()))
    block = f"revisions:\n{block}" if block else ""
    if _PINNED.search(text):
        text = _PINNED.sub(lambda _: block, text)
    elif block:
        text = f"{text.rstrip()}\n# `advgrpo config pin {file}` renews these commits.\n{block}"
    file.write_text(text, encoding="utf-8")


def _prompt_files(prompts: str, test_prompts: str, column: str, output: Path) -> dict[str, Any]:
    """Return the locations of the prompts, after writing those that are not prompt files yet."""
    from advgrpo.data.prompt_tables import read_any_prompts
    from advgrpo.data.splits import split_prompts
    from advgrpo.errors import ConfigError

    train = read_any_prompts(prompts, column).texts
    if test_prompts:
        test = read_any_prompts(test_prompts, column).texts
        given = {"train": (prompts, train), "test": (test_prompts, test)}
        return {
            name: location if location.endswith(".txt") else _write(output, name, texts)
            for name, (location, texts) in given.items()
        }
    split = split_prompts(train, _TEST_FRACTION)
    if not split.held_out:
        raise ConfigError(
            f"--prompts={prompts}: none of its {len(train)} prompts falls into the tenth to "
            "evaluate on",
            repair="use more prompts, or add --test-prompts with a second file",
        )
    return {
        "train": _write(output, "train", [train[i] for i in split.training]),
        "test": _write(output, "test", [train[i] for i in split.held_out]),
    }


def _write(output: Path, name: str, texts: Iterable[str]) -> str:
    from advgrpo.errors import ConfigError

    file = output.with_name(f"{output.stem}-{name}.txt")
    if file.exists():
        raise ConfigError(f"{file} exists", repair="remove it, or choose another --output")
    texts = list(texts)
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    print(f"wrote {file}: {len(texts)} prompts")
    return str(file)
