"""All settings of a run, and the one door to them."""

import difflib
import math
import reprlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import ValidationError, model_validator

from advgrpo.config.base import NonNegativeInt, Section
from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.independence import Independence, independence
from advgrpo.config.left_open import fill_draft, require_all_given
from advgrpo.config.policy import Sd3PolicyConfig
from advgrpo.config.promotion import ALWAYS_MEASURED, STAND_INS, PromotionConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.scorers import PocketJudgeConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.config.unpaired import pairing_problems
from advgrpo.errors import ConfigError

S = TypeVar("S", bound=Section)

_LISTED = 20
_LONGEST_YAML = 2**20
_MOST_VALUES = 10_000
# Dates that there are not, numbers of thousands of digits and lists in lists in lists are no
# errors of YAML's own.
_YAML_FAULTS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)

POCKET_PIXELS = 32
"""Side length of the pocket world's pictures."""


class RunConfig(Section):
    """Settings of a run, one section per pipeline task and what they share."""

    seed: NonNegativeInt = 0
    """Every random draw of the run follows from it."""

    prompts: PromptsConfig
    policy: Sd3PolicyConfig
    reference_images: ReferenceImagesConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig = PromotionConfig()

    @model_validator(mode="after")
    def _window_fits_the_steps(self) -> Self:
        sampling = self.training.sampling
        # The last step's noise is almost nothing; its log-prob would drown all others.
        last = sampling.denoising_steps - 1
        if sampling.window.end > last:
            raise ValueError(
                f"training.sampling.window ends after denoising step {sampling.window.end}, but of "
                f"training.sampling.denoising_steps={sampling.denoising_steps} only the first "
                f"{last} can be trained (the last one is nearly noiseless): start the window "
                "earlier, shorten it, or take more denoising steps"
            )
        return self

    @model_validator(mode="after")
    def _groups_fit_the_optimizer_steps(self) -> Self:
        rollout, steps = self.training.rollout, self.training.optimizer_steps_per_update
        if rollout.prompts_per_update % steps:
            raise ValueError(
                f"training.optimizer_steps_per_update={steps} would split a group: it must divide "
                f"training.rollout.prompts_per_update={rollout.prompts_per_update}"
            )
        images = rollout.prompts_per_update // steps * rollout.group_size
        for name, size in self._microbatches.items():
            if images % size:
                raise ValueError(
                    f"{name}={size} must divide the {images} images of an optimizer step "
                    "(prompts_per_update x group_size / optimizer_steps_per_update) on at least "
                    "one rank"
                )
        return self

    @property
    def _microbatches(self) -> dict[str, int]:
        rollout = self.training.rollout
        sizes = {"training.rollout.microbatch_size": rollout.microbatch_size}
        if rollout.update_microbatch_size is not None:
            sizes["training.rollout.update_microbatch_size"] = rollout.update_microbatch_size
        return sizes

    @model_validator(mode="after")
    def _resolutions_agree(self) -> Self:
        ours, theirs = self.policy.resolution_pixels, self.reference_images.resolution_pixels
        if ours != theirs:
            raise ValueError(
                f"policy.resolution_pixels={ours} and reference_images.resolution_pixels={theirs} "
                "differ: the discriminator would tell images apart by their size; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _nothing_pairs_what_serves_any_prompt(self) -> Self:
        problems = pairing_problems(
            self.reference_images, self.discriminator, self.training.reward, self.evaluation
        )
        if problems:
            raise ValueError(
                "images of reference_images.source (folder) serve any prompt, but "
                + "; ".join(problems)
            )
        return self

    @model_validator(mode="after")
    def _pocket_judge_sees_pocket_pictures(self) -> Self:
        pixels = self.policy.resolution_pixels
        judged = any(isinstance(s, PocketJudgeConfig) for s in self.evaluation.scorers)
        if judged and pixels != POCKET_PIXELS:
            raise ValueError(
                f"evaluation.scorers has pocket_judge, which reads pictures of {POCKET_PIXELS} "
                f"pixels, but policy.resolution_pixels={pixels}: leave the scorer out"
            )
        return self

    @model_validator(mode="after")
    def _alignment_is_measured(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        known = [scorer.type for scorer in self.evaluation.scorers]
        if scorer not in known:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r} names no scorer of "
                f"evaluation.scorers ({', '.join(known) or 'none'})"
            )
        return self

    @model_validator(mode="after")
    def _gates_can_be_judged(self) -> Self:
        terms = (term.type for term in self.training.reward.terms)
        rewarded = {"discriminator", *terms, *self.independence.trained_on}
        known = {*ALWAYS_MEASURED, *(scorer.type for scorer in self.evaluation.scorers)}
        for position, gate in enumerate(self.promotion.gates):
            name = f"promotion.gates.{position}.measure={gate.measure!r}"
            is_alignment = gate.measure == "alignment"
            measure = self.evaluation.alignment if is_alignment else gate.measure
            family, dot, _ = measure.partition(".")
            if family in rewarded:
                raise ValueError(
                    f"{name} is what the run's reward is trained on"
                    + (f" (evaluation.alignment={measure})" if is_alignment else "")
                    + ": it rises whether or not the images get better; use a measure of a scorer "
                    "that is not among training.reward.terms"
                )
            if measure not in STAND_INS and not (dot and family in known):
                raise ValueError(
                    f"{name} will not be measured: write scorer.measure of a scorer in "
                    f"evaluation.scorers, a measure of {', '.join(ALWAYS_MEASURED)}, or one of "
                    f"{', '.join(STAND_INS)}"
                )
        return self

    @model_validator(mode="after")
    def _alignment_is_not_rewarded(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        setting = self.independence.trained_by.get(scorer)
        if setting is not None:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r} is what {setting} trains on: "
                "it rises whether or not the images get better, and the adapter that is handed on "
                "is chosen by it; name a measure that does not reward, or leave that term out"
            )
        return self

    @property
    def independence(self) -> Independence:
        """How far each measure of the evaluation is from what rewards the policy."""
        return independence(self.discriminator, self.training.reward, self.evaluation)

    def check_ranks(self, ranks: int) -> None:
        """Refuse a number of training processes that cannot share the rollout evenly.

        Args:
            ranks: Training processes over all nodes; one per GPU.

        Raises:
            ConfigError: If an optimizer step's images cannot be split over the ranks in whole
                microbatches. Names numbers that work.
        """
        rollout = self.training.rollout
        images = (
            rollout.prompts_per_update
            // self.training.optimizer_steps_per_update
            * rollout.group_size
        )
        sizes = self._microbatches
        whole = math.lcm(*sizes.values())
        if ranks >= 1 and images % (ranks * whole) == 0:
            self._check_discriminator_batch(ranks)
            return
        fitting = [str(n) for n in range(1, images // whole + 1) if images % (n * whole) == 0]
        said = " and ".join(f"{size} ({name})" for name, size in sizes.items())
        raise ConfigError(
            f"{ranks} training processes cannot share {images} images per optimizer step in "
            f"microbatches of {said}",
            repair=f"use {', '.join(fitting)} processes, or change "
            "training.rollout.{prompts_per_update, group_size, microbatch_size}",
        )

    def _check_discriminator_batch(self, ranks: int) -> None:
        batch = self.discriminator.optimizer.batch_size
        if batch % ranks:
            raise ConfigError(
                f"{ranks} training processes cannot share "
                f"discriminator.optimizer.batch_size={batch} evenly",
                repair=f"set it to {-(-batch // ranks) * ranks}",
            )

    def to_yaml(self) -> str:
        """Write all settings, defaults included, as YAML that `resolve` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    """List the presets that ship with the package."""
    folder = resources.files("advgrpo.config") / "presets"
    names = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def resolve(preset: str, overrides: Iterable[str] = (), *, is_draft: bool = False) -> RunConfig:
    """Read a preset, apply overrides and validate the whole.

    Args:
        preset: Name of a shipped preset, path of a YAML file of the same shape, or the text of
            one, which has more than one line.
        overrides: Texts such as `training.updates=10`; the value is read as YAML.
        is_draft: Whether prompt files and commits may be left open, because nothing will be run.

    Returns:
        The validated settings.

    Raises:
        ConfigError: If the preset is unknown, or a setting is missing or wrong; names key, value
            and repair.
    """
    settings = _read_preset(preset)
    for override in overrides:
        _apply(settings, override)
    if is_draft:
        fill_draft(settings)
    else:
        require_all_given(settings, where=preset_title(preset))
    return parse(RunConfig, settings, where=preset_title(preset))


def preset_title(preset: str) -> str:
    """Give a preset a short name: its own, its path, or a text's comment in its first line."""
    if not _is_text(preset):
        return preset
    first = preset.strip().splitlines()[0]
    return first.removeprefix("#").strip()[:60] if first.startswith("#") else "custom"


def _is_text(preset: str) -> bool:
    return "\n" in preset.strip()


def parse(section: type[S], settings: Mapping[str, Any], *, where: str) -> S:
    """Validate settings as a section.

    Args:
        section: The model to validate against.
        settings: Plain values, as YAML or JSON give them.
        where: Preset, file or parameter that they come from, for the error.

    Raises:
        ConfigError: If a setting is wrong; names key, value and repair.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        listed = error.errors()[:_LISTED]
        problems = "\n".join(f"  - {_explain(dict(e), section, settings)}" for e in listed)
        more = error.error_count() - len(listed)
        raise ConfigError(
            f"settings of {where} cannot be used:\n{problems}"
            + (f"\n  and {more} more like these" if more else ""),
            repair="correct them in the file or with --set; `advgrpo config show` lists all keys",
        ) from error


def _read_preset(preset: str) -> dict[str, Any]:
    title = preset_title(preset)
    if _is_text(preset):
        text = preset
    elif preset in preset_names():
        text = (resources.files("advgrpo.config") / "presets" / f"{preset}.yaml").read_text("utf-8")
    elif preset.endswith((".yaml", ".yml")):
        try:
            text = Path(preset).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"preset file {preset!r} cannot be read: {error}",
                repair="give the path of a YAML file in UTF-8",
            ) from error
    else:
        raise ConfigError(
            f"there is no preset {preset!r}",
            repair=f"use one of {', '.join(preset_names())}, or the path of a YAML file",
        )
    try:
        settings = _read_yaml(text)
    except _YAML_FAULTS as error:
        raise ConfigError(f"preset {title!r} is not YAML: {error}", repair="correct it") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"preset {title!r} holds no settings", repair="write sections such as `training:`"
        )
    return settings


def _read_yaml(text: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    if len(text) > _LONGEST_YAML:
        raise ValueError(f"it has {len(text)} characters, more than {_LONGEST_YAML}")
    value = yaml.safe_load(text)
    # By its aliases a short text can be a tree without end, or of more values than fit anywhere.
    waiting, count = [value], 0
    while waiting:
        here = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        if isinstance(here, dict | list):
            waiting += here.values() if isinstance(here, dict) else here
    return value


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(
            f"override {override!r} is not of the form key=value",
            repair="write for instance --set training.updates=10",
        )
    try:
        value = _read_yaml(text)
    except _YAML_FAULTS as error:
        raise ConfigError(
            f"the value of override {override!r} is not YAML: {error}",
            repair="quote texts that contain special characters",
        ) from error
    if isinstance(value, str):
        value = _number(value)
    section: Any = settings
    for depth, part in enumerate(parts[:-1]):
        section = _descend(section, part, ".".join(parts[: depth + 1]))
    if isinstance(section, list):
        section[_index(section, parts[-1], key)] = value
    else:
        section[parts[-1]] = value


def _descend(section: Any, part: str, path: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    if isinstance(section, list):
        return section[_index(section, part, path)]
    below = section.setdefault(part, {})
    if below is None:
        below = section[part] = {}
    if not isinstance(below, dict | list):
        raise ConfigError(
            f"{path} is the value {reprlib.repr(below)}, not a section",
            repair=f"set {path} itself, or a key of another section",
        )
    return below


def _index(items: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"{path}: {part!r} is no position in a list of {len(items)}",
            repair="count positions from 0",
        )
    return int(part)


def _number(text: str) -> float | str:
    # YAML 1.1 reads 1e-4 as a text; users mean the number.
    try:
        return float(text)
    except ValueError:
        return text


def _explain(
    problem: Mapping[str, Any], section: type[Section], settings: Mapping[str, Any]
) -> str:
    path = _path(problem["loc"], settings)
    if problem["type"] == "extra_forbidden":
        known = _keys(section)
        if path in known:
            # Of another type of the section: one type was set over the other's keys.
            above, _, key = path.rpartition(".")
            return (
                f"{path}: no key of this type of {above}; to change the type, set all of it, as in "
                f"--set '{above}={{type: TYPE}}', without {key}"
            )
        near = difflib.get_close_matches(path, known, n=1) or difflib.get_close_matches(
            path.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=1
        )
        return f"{path}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{path}.type={tag}: is none of {known}"
    if problem["type"] == "missing":
        return f"{path}: is missing"
    return f"{path}={reprlib.repr(problem['input'])}: {message[0].lower()}{message[1:]}"


def _path(location: Iterable[str | int], settings: Mapping[str, Any]) -> str:
    """Write the place of a problem as the keys that lead there, without the types of unions."""
    parts: list[str] = []
    here: Any = settings
    for part in location:
        if isinstance(here, Mapping) and part not in here and here.get("type") == part:
            continue
        parts.append(str(part))
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int):
            # Of a list that is too short, the place is behind its end.
            here = here[part] if part < len(here) else None
    return ".".join(parts)


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for below in (field.annotation, *get_args(field.annotation)):
            if isinstance(below, type) and issubclass(below, Section):
                keys += _keys(below, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))
