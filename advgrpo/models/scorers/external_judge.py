"""A judge in another process, for instance GenEval's detector in its own environment."""

import json
import queue
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.scorers.external_judge import ExternalJudgeConfig
from advgrpo.data.images import encode_png
from advgrpo.errors import ConfigError, DataError, EvaluationError
from advgrpo.models.scorers.base import BuildContext
from advgrpo.storage.fetch import local_file
from advgrpo.strict_json import load_json, load_json_object

_END = ""
"""Marker of the reader thread for the end of the program's output; lines are never empty."""


class ExternalJudge:
    """A program that returns verdicts on images; its metrics are `external_judge.<verdict>`.

    A verdict is a number in [0, 1], or true or false; higher is better. The program is started
    once, reads one request per line and answers each by one line, in order; both are JSON objects:

        {"image": "/tmp/x/0.png", "prompt": "two dogs", "metadata": {"include": [...]}}
        {"image": "/tmp/x/0.png", "verdicts": {"correct": true}}

    The image is a PNG file that exists until it is answered. `metadata` is the prompt's entry in
    the metadata file, without the prompt; with such a file, prompts that are not in it have no
    value.

    Args:
        command: The program, found through PATH, and its arguments; no shell is involved.
        verdicts: Names of the verdicts in each answer.
        metadata: Additional data for the judge, by prompt; None if it needs none.
        timeout_seconds: Longest wait for an answer, including the start of the program.

    Source:
        Compositional checks as in GenEval, arXiv:2310.11513, whose metadata files can be used
        unchanged. Its detector is not part of this package; check its licence.
    """

    name = "external_judge"

    def __init__(
        self,
        command: Sequence[str],
        *,
        verdicts: Sequence[str],
        metadata: Mapping[str, Mapping[str, Any]] | None,
        timeout_seconds: float,
    ) -> None:
        self.metrics = tuple(verdicts)
        self._command, self._metadata = list(command), metadata
        self._timeout_seconds = timeout_seconds
        self._program: _Program | None = None

    def why_missing(self, prompt: str) -> str:
        """Return why images of a prompt have no value; empty if they have one."""
        known = self._metadata is None or prompt in self._metadata
        return "" if known else "it is not in the judge's metadata file"

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Return the verdicts on each image.

        Raises:
            ConfigError: If the program cannot be started.
            EvaluationError: If it exits, or does not answer in time.
            DataError: If an answer is invalid.
        """
        if self._program is None:
            # Started with the first image rather than at construction, which must not run programs.
            self._program = _Program(self._command, self._timeout_seconds)
            # Also runs at interpreter exit, so that the program does not outlive the process.
            weakref.finalize(self, self._program.close)
        # One folder per call: it is deleted also if the program fails, and names never collide.
        with TemporaryDirectory() as folder:
            files = [Path(folder) / f"{number}.png" for number in range(len(prompts))]
            for file, image in zip(files, images, strict=True):
                file.write_bytes(encode_png(image.float().cpu()))
            answers = self._program.answers(
                [self._request(file, prompt) for file, prompt in zip(files, prompts, strict=True)]
            )
            rows = [
                self._verdicts(answer, str(file), prompt)
                for answer, file, prompt in zip(answers, files, prompts, strict=True)
            ]
        return {metric: torch.tensor([row[metric] for row in rows]) for metric in self.metrics}

    def _request(self, file: Path, prompt: str) -> str:
        metadata = {} if self._metadata is None else self._metadata[prompt]
        # json.dumps escapes line breaks of the prompt, so a request is always one line.
        return json.dumps({"image": str(file), "prompt": prompt, "metadata": dict(metadata)})

    def _verdicts(self, answer: str, image: str, prompt: str) -> dict[str, float]:
        where = f"the external judge answered {answer[:200]!r} for {prompt!r}"
        repair = (
            f'answer {{"image": ..., "verdicts": {{"{self.metrics[0]}": ...}}}} with true, false '
            "or numbers from 0 to 1, and log to standard error only"
        )
        try:
            response = load_json(answer)
            # Additional verdicts are ignored.
            verdicts = {metric: response["verdicts"][metric] for metric in self.metrics}
            named = response["image"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: {error!r}", repair=repair) from error
        # Catches a program that skips or repeats an answer, which would shift all later ones.
        if named != image:
            raise DataError(f"{where}, which names another image than {image}", repair=repair)
        for metric, value in verdicts.items():
            # Comparisons with NaN are false, so it is refused, too.
            if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
                raise DataError(f"{where}: {metric} is {value!r}", repair=repair)
        return {metric: float(value) for metric, value in verdicts.items()}


def build(config: ExternalJudgeConfig, _context: BuildContext) -> ExternalJudge:
    """Read the metadata; the program starts with the first image.

    Raises:
        DataError: If a line of the metadata file cannot be used.
    """
    metadata = None
    if config.metadata is not None:
        try:
            text = local_file(config.metadata).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{config.metadata} is not UTF-8: {error}", repair="save it as UTF-8"
            ) from error
        metadata = parse_metadata(text, where=config.metadata)
    return ExternalJudge(
        config.command,
        verdicts=config.verdicts,
        metadata=metadata,
        timeout_seconds=config.timeout_seconds,
    )


def parse_metadata(lines: str, *, where: str) -> dict[str, dict[str, Any]]:
    """Parse the metadata file of a judge.

    Args:
        lines: One JSON object a line, with a `prompt`, as in GenEval's `evaluation_metadata.jsonl`.
        where: The file, for errors.

    Returns:
        The rest of each object, by prompt.

    Raises:
        DataError: If a line is not such an object, or two lines of one prompt differ.
    """
    metadata: dict[str, dict[str, Any]] = {}
    # Not splitlines(), which also splits at characters within prompts, such as U+2028.
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            facts = load_json_object(line)
            prompt = str(facts.pop("prompt"))
        except (ValueError, KeyError) as error:
            raise DataError(
                f"line {number} of {where} is not a JSON object with a prompt: {error!r}",
                repair="write one object a line, as GenEval's evaluation_metadata.jsonl does",
            ) from error
        if prompt in metadata and metadata[prompt] != facts:
            raise DataError(
                f"line {number} of {where} contradicts an earlier line for {prompt!r}",
                repair="remove one of the two lines",
            )
        metadata[prompt] = facts
    return metadata


class _Program:
    """A running program that answers line by line."""

    def __init__(self, command: Sequence[str], timeout_seconds: float) -> None:
        self._name, self._timeout_seconds = " ".join(command), timeout_seconds
        try:
            # Standard error is inherited, so the log of the judge is part of the task's.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                # An answer that is not UTF-8 must not end the thread that reads.
                errors="replace",
            )
        except OSError as error:
            raise ConfigError(
                f"the external judge {self._name!r} cannot be started: {error}",
                repair="set command to an installed program, with its arguments as a list",
            ) from error
        self._lines: queue.Queue[str] = queue.Queue()
        # Reads from a pipe have no timeout, so a thread reads and the caller waits on a queue.
        threading.Thread(target=self._read, daemon=True).start()

    def answers(self, requests: Sequence[str]) -> list[str]:
        """Send requests and wait for as many answers."""
        assert self._process.stdin is not None
        try:
            answers = []
            for request in requests:
                # One at a time, so that the timeout applies to each answer.
                self._process.stdin.write(request + "\n")
                self._process.stdin.flush()
                answers.append(self._lines.get(timeout=self._timeout_seconds))
        # Stop the program: a late answer would be taken for that of the next request.
        except queue.Empty as error:
            self.close()
            raise EvaluationError(
                f"the external judge {self._name!r} did not answer within "
                f"{self._timeout_seconds:g} s",
                repair="increase timeout_seconds, or flush the program's output after each line",
            ) from error
        except (OSError, ValueError):
            # A broken pipe means that the program has exited; after an earlier failure, its input
            # is closed.
            answers.append(_END)
        if _END in answers:
            # The program may have closed its output without exiting.
            self.close()
            raise EvaluationError(
                f"the external judge {self._name!r} exited with status "
                f"{self._process.returncode} before answering",
                repair="check its standard error; it must read until the end of its input",
            )
        return answers

    def close(self) -> None:
        """Close the program's input, and kill it if it does not exit."""
        assert self._process.stdin is not None
        try:
            # The end of its input is how the protocol stops the program; killing is the last
            # resort.
            self._process.stdin.close()
            self._process.wait(timeout=1)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        # Also after a closed output, so that the caller fails at once instead of waiting for the
        # timeout.
        self._lines.put(_END)
