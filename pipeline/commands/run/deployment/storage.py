"""Runs whose results are in a storage of Snakemake, such as S3, because the machines of their jobs share no file system."""

from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.study.artifacts import RECORDS, Artifact, list_with_inputs, record_path
from pipeline.study.stages import STAGES

# the folders that paths of rules start in
FOLDERS = ("data", "results", "reports", "logs")
PLACEHOLDER = "BUCKET"
# stages that read more than the artifacts they are made from
READ_BACK = ("score", "report")


def link_storage(workflow: Any, root: Path) -> bool:
    """Let Snakemake's local copies of storage be the files of the checkout; return whether the run has a default storage.

    Snakemake puts the local copy of ``results/x`` below .snakemake/storage, while a job reads and writes ``results/x`` in its
    folder. A link from each folder there to the one of the checkout makes them the same file.

    Args:
        workflow: of Snakemake.
        root: of the checkout, or of its copy in the folder of a job.

    Raises:
        UserError: the address is still that of the profile as it is shipped.
    """
    prefix = workflow.storage_settings.default_storage_prefix
    provider = workflow.storage_registry.default_storage_provider
    if not prefix or provider is None:
        return False
    if PLACEHOLDER in prefix.split("/"):
        raise UserError(
            f"default-storage-prefix: {prefix} is a placeholder; name your bucket in the profile, or by --default-storage-prefix"
        )
    for folder in FOLDERS:
        copies = Path(provider.object(f"{prefix.rstrip('/')}/{folder}").local_path())
        target = (root / folder).resolve()
        target.mkdir(exist_ok=True)
        if copies.is_symlink() and copies.resolve() == target:
            continue
        copies.parent.mkdir(parents=True, exist_ok=True)
        try:
            copies.symlink_to(target)
        except FileExistsError:
            raise UserError(
                f"{copies}: in the way; it holds copies of an earlier run, so remove it"
            ) from None
    return True


def list_inputs(artifact: Artifact) -> list[str]:
    """Return the paths that the job of an artifact needs on its machine.

    Scores and reports also read what their inputs are made from, such as the record of a training. Bases are left out there:
    they are large, and neither reads them.
    """
    sources = {str(source.path) for source in artifact.inputs.values()}
    if artifact.stage in READ_BACK:
        sources |= {
            str(source.path)
            for source in list_with_inputs(artifact.inputs.values())
            if source.stage != "base"
        }
    return sorted(sources)


def list_records(pattern: str, stage: str, *, has_storage: bool) -> list[str]:
    """Return the provenance record as a further output of a job whose machine ends with it.

    Args:
        pattern: the path of the rule's artifact, with its wildcards.
        stage: of the artifact.
        has_storage: whether results are in a storage; with a shared file system the record is in place as soon as it is written.
    """
    if not has_storage:
        return []
    assert pattern.startswith(STAGES[stage].folder)
    record = record_path(stage, Path(pattern))
    assert record.is_relative_to(RECORDS)
    return [str(record)]
