from pathlib import Path

import pytest
import yaml

from advgrpo.errors import ConfigError
from advgrpo.kfp_client import PipelineDocument
from advgrpo.kfp_client.compiled import PIPELINE


def test_it_has_the_pipelines_name_and_tasks(document: PipelineDocument) -> None:
    assert document.name == "adversarial-grpo"
    assert document.tasks["train"] == "Adversarial training"
    assert document.version.startswith(f"{document.content}-")


def test_written_and_read_again_it_has_the_same_name(
    document: PipelineDocument, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(document.to_yaml())
    assert list(yaml.safe_load_all(file.read_text())) == list(
        yaml.safe_load_all(PIPELINE.read_text())
    )
    assert PipelineDocument.read(file).version == document.version


def test_other_images_make_another_version_of_the_same_content(document: PipelineDocument) -> None:
    other = document.with_images(launcher="registry/launcher:1", trainer="registry/trainer:1")
    assert other.images == ("registry/launcher:1", "registry/trainer:1")
    assert other.content == document.content
    assert other.version != document.version
    assert document.images != other.images


def test_another_default_makes_another_content(document: PipelineDocument, tmp_path: Path) -> None:
    parts = list(yaml.safe_load_all(PIPELINE.read_text()))
    parts[0]["root"]["inputDefinitions"]["parameters"]["processes"]["defaultValue"] = 8.0
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump_all(parts))
    assert PipelineDocument.read(file).content != document.content


def test_annotations_are_for_the_named_tasks(document: PipelineDocument) -> None:
    annotated = document.with_annotations({"a": "b"}, tasks=["train"])
    platform = annotated.parts[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {name for name, one in platform.items() if one["podMetadata"].get("annotations")}
    assert found == {"exec-train"}
    assert platform["exec-train"]["podMetadata"]["annotations"] == {"a": "b"}
    assert annotated.content == document.content
    assert document.with_annotations({}, tasks=["train"]).version == document.version


def test_tasks_run_as_no_user_of_their_own_or_as_the_given_one(document: PipelineDocument) -> None:
    assert document.platform_executor("exec-train")["securityContext"] == {"runAsNonRoot": True}
    other = document.with_user(1000660000)
    assert other.platform_executor("exec-train")["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": "1000660000",
        "runAsGroup": "1000660000",
    }
    assert (other.content, document.with_user(None).version) == (
        document.content,
        document.version,
    )


@pytest.mark.parametrize("text", ["", "a: 1", "- 1", "a: ["])
def test_a_file_that_is_not_a_pipeline_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"wrong\.yaml"):
        PipelineDocument.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        PipelineDocument.read(tmp_path / "none.yaml")
