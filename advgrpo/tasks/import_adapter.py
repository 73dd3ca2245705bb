"""Import of an external adapter as a training result, so that it can be evaluated."""

import json
import shutil

from advgrpo import __version__
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import digest
from advgrpo.models.discriminators.saving import FACTS_FILE
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.saved_adapter import read_adapter, refuse_other_shape
from advgrpo.records import DISCRIMINATOR_WEIGHTS, PEFT_WEIGHTS
from advgrpo.runtime.results import (
    LINEAGE_FILE,
    TOTALS_FILE,
    find_result,
    library_versions,
    result_folder,
    write_history,
    write_metrics,
)
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join
from advgrpo.tasks.adapters import fetch_adapter


def import_adapter(
    config: RunConfig, adapter: str, *, workspace: str, discriminator: str = ""
) -> str:
    """Write an adapter as a training result with no updates and no history.

    Args:
        config: The run's settings; `policy.adapter` must have the adapter's rank and alpha.
        adapter: Location of the adapter, as `generate` takes it.
        workspace: Local path or `s3://` location for the result.
        discriminator: Location of a pre-trained discriminator, whose reward is then evaluated.

    Returns:
        Location of the result.

    Raises:
        WeightsError: If the adapter does not exist or has another shape.
        StorageError: If files cannot be read or written.
    """
    folder, reward = fetch_adapter(adapter), local_folder(discriminator) if discriminator else None
    refuse_other_shape(folder, config.policy.adapter)
    hashes = {"adapter.origin": file_sha256(folder / PEFT_WEIGHTS)}
    if reward is not None:
        hashes["discriminator"] = file_sha256(reward / DISCRIMINATOR_WEIGHTS)
    location = join(
        workspace,
        "imported_adapters",
        # The location counts, too, although the hash identifies the content: it is in the lineage.
        digest(config.policy, adapter, *hashes.values(), __version__),
    )
    if find_result(location) is not None:
        return location
    with result_folder(location) as target:
        save_adapter(target / "adapter", read_adapter(folder), config.policy.adapter)
        if reward is not None:
            (target / "discriminator").mkdir()
            # Evaluations load the reward from the training result.
            for name in (DISCRIMINATOR_WEIGHTS, FACTS_FILE):
                shutil.copyfile(reward / name, target / "discriminator" / name)
        write_history(target, [])
        totals = {"updates": 0, "alarms": [], "stopped_early": False}
        (target / TOTALS_FILE).write_text(json.dumps(totals), encoding="utf-8")
        lineage = {**hashes, "adapter.location": adapter, **library_versions()}
        (target / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1), encoding="utf-8")
        # The report of an evaluation reads these metrics of a training.
        none = ("policy_updates", "images_sampled", "seconds/rollout", "cost/peak_memory_mib")
        write_metrics(target, dict.fromkeys(none, 0.0))
    return location
