"""What the Snakefile takes from the pipeline: the study of a run, the inputs of its jobs, and the run lock."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.run.deployment import kubernetes, profiles, software, storage
from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.endpoint_plan import check_keys, plan_missing, print_plan
from pipeline.commands.run.slurm import queue, resources, work
from pipeline.commands.run.slurm.site import Site, cap_site, check_nodes, check_site, split_site
from pipeline.core import io, processes, warm
from pipeline.core.errors import UserError
from pipeline.core.hardware import devices
from pipeline.core.hardware.processor import limit_kernels
from pipeline.models.bases.local import MODELS_ROOT, set_models_root
from pipeline.params.machine import MachineSettings, check_config_options
from pipeline.params.peft.quantization import require_bitsandbytes
from pipeline.params.reading import read_card
from pipeline.results import store
from pipeline.results.dvc import lock, workarounds
from pipeline.study import Study, load_groups, load_study
from pipeline.study.artifacts import Artifact
from pipeline.study.checks import check_machine, lacks_quantized_results
from pipeline.study.costs.messages import warn_of_large_models
from pipeline.study.distillation.teacher import list_base_models
from pipeline.study.run import BARE, SECOND_STAGE, endpoint_resource, is_endpoint
from pipeline.study.stages import HEAVY, STAGES

if TYPE_CHECKING:
    from pipeline.evaluate.endpoints.plan import TaskPlan

GROUP_RULE = "generate_group"
# the rules whose jobs load a base
COMPUTING = {"train", "distill", "generate", GROUP_RULE}
# The rule of bases that are not pretrained here but downloaded, copied or converted. It runs where snakemake does, since nodes
# of a cluster mostly have no network.
FETCH_BASE = "fetch_base"
# rules that run on the submitting machine, also on a cluster; the Snakefile repeats them
LOCAL_RULES = (
    "fetch",
    "prompts",
    "audit",
    FETCH_BASE,
    "choose",
    "distilled_set",
    "tie",
    "query",
    "query_teacher",
    "score",
    "report",
)
# The mark of a finished group; Snakemake removes it once the group's answers are in place.
GROUP_DONE = "logs/generate_group/{group}.done"

# takes the wildcards of a job
InputFunction = Callable[[Any], list[str]]


@dataclass(frozen=True)
class StudyRun:
    """One `snakemake` run of a study.

    Attributes:
        study: whose artifacts the rules make.
        root: of the checkout.
        previous_run: when a run last began here, in ns: a run that begins while this one plans makes its plan stale.
        machine: settings of the machine that ``--config`` or a profile chooses.
        groups: name of a group -> the answers that are generated at one load of their base.
        site: where Slurm's jobs run; None: not on Slurm.
        devices: what the jobs compute on.
        engine: how Snakemake was called.
        image: of the jobs in Apptainer: a file, or an address in a registry.
        endpoint_plans: what the missing answers of endpoint models take; empty in the processes of jobs.
    """

    study: Study
    root: Path
    previous_run: int
    machine: MachineSettings
    groups: dict[str, list[Artifact]]
    site: Site | None
    devices: resources.Devices
    engine: Engine
    image: str
    endpoint_plans: Sequence["TaskPlan"] = ()

    @property
    def command(self) -> str:
        """How the shell of a job starts the pipeline."""
        return software.pipeline_command(self.engine.methods)

    @property
    def study_options(self) -> str:
        """The options of a job that select the study and its seeds."""
        seeds = "" if self.study.seed_count is None else f" --seeds {self.study.seed_count}"
        return f"--study {shlex.quote(self.study.name)}{seeds}"

    @property
    def machine_options(self) -> str:
        """The options of a job that pass the settings of the machine on."""
        return shlex.join(self.machine.arguments())

    @cached_property
    def _sites(self) -> tuple[Site, Site]:
        """The site with the caps of jobs without a GPU, and of jobs with GPUs."""
        assert self.site
        return cap_site(self.site, gpus=0), cap_site(self.site, gpus=self.devices.gpus)

    @property
    def nodes(self) -> int:
        """How many nodes the processes of a training share."""
        return self.site.nodes if self.site else 1

    @property
    def local_rules(self) -> tuple[str, ...]:
        """The rules that run on the submitting machine.

        Where the jobs of groups write all answers, those of the rule ``generate`` only rename them. On a cluster, each would
        wait for a GPU. Answers of trials are in no group.
        """
        is_renaming = self.groups and not any(trial.results for trial in self.study.trials)
        return (*LOCAL_RULES, "generate") if is_renaming else LOCAL_RULES

    @property
    def shell_prefix(self) -> str:
        """What the shell of each job runs first: Snakemake's own settings and the site's prelude."""
        prelude = f"{self.site.prelude}; " if self.site and self.site.prelude else ""
        return f"set -euo pipefail; {prelude}"

    def bases_of(self, *, pretrained: bool) -> str:
        """Return a pattern of the models whose base is pretrained here, or of those whose base is not."""
        names = [
            model
            for model in list_base_models(self.study)
            if (read_card("models", model).kind == "pretrained") == pretrained
        ]
        # a pattern that matches nothing, where there is no such model
        return "|".join(re.escape(name) for name in names) or "(?!)"

    @property
    def endpoints(self) -> str:
        """Return a pattern of the results of models behind an endpoint: the folders between results/answers/ and the fingerprint."""
        names = [re.escape(model) for model in self.study.card.models if is_endpoint(model)]
        return rf"({'|'.join(names)})/{BARE}(/{SECOND_STAGE})?" if names else "(?!)"

    @property
    def endpoint_teachers(self) -> str:
        """Return a pattern of the teachers behind an endpoint, as the folders of their answers have them."""
        names = [re.escape(model) for model in list_base_models(self.study) if is_endpoint(model)]
        return rf"({'|'.join(names)})/{BARE}" if names else "(?!)"

    @property
    def endpoint_limits(self) -> dict[str, int]:
        """Return Snakemake's resources by which one job at a time uses an endpoint: 1 of the resource of each address."""
        return {endpoint_resource(model): 1 for model in list_base_models(self.study) if is_endpoint(model)}

    def endpoint_resources(self, wildcard: str) -> dict[str, Callable[[Any], int]]:
        """Return what a job that queries an endpoint takes of each: its own, and none of the others.

        Args:
            wildcard: of the rule, whose value begins with the model.
        """

        def use_of(resource: str) -> Callable[[Any], int]:
            return lambda wildcards: int(
                endpoint_resource(getattr(wildcards, wildcard).partition("/")[0]) == resource
            )

        return {resource: use_of(resource) for resource in self.endpoint_limits}

    def resources_of(self, rule: str) -> dict[str, resources.Resource]:
        """Return what a rule's jobs ask Slurm for; in a run that is not on Slurm, GPUs alone."""
        if self.site is None:
            return resources.list_gpus(None, rule, self.devices)
        work_of: dict[str, Callable[[Any], work.Work]] = {
            "base": lambda wildcards: work.Work(0, 0),
            "combine": lambda wildcards: work.combination_work(
                self.study.find_artifact("combine", wildcards.fingerprint)
            ),
            "train": lambda wildcards: work.training_work(
                self.study.find_artifact("train", wildcards.fingerprint), self.machine
            ),
            "distill": lambda wildcards: work.teaching_work(
                self.study.find_artifact("distill", wildcards.fingerprint), self.machine
            ),
            "generate": lambda wildcards: work.generation_work(
                [self.study.find_artifact("generate", wildcards.fingerprint)], self.machine
            ),
            GROUP_RULE: lambda wildcards: work.generation_work(self.groups[wildcards.group], self.machine),
        }
        site = self._sites[0 if rule in resources.WITHOUT_GPU else 1]
        return resources.list_resources(site, rule, work_of[rule], self.devices)

    def machine_options_of(self, rule: str) -> str | Callable[[Any, Any], str]:
        """Return the options of a rule's jobs that pass the settings of the machine on, or the params function that does."""
        gpus = self.resources_of(rule)["gpu"]
        if isinstance(gpus, int):
            return self.machine_options
        # the last of several values of a key counts
        return lambda wildcards, resources: f"{self.machine_options} --machine gpus_per_job={resources.gpu}"

    def records_of(self, stage: str, pattern: str) -> list[str]:
        """Return the further outputs of the jobs that make artifacts at the paths of a pattern."""
        return storage.list_records(pattern, stage, has_storage=self.engine.has_storage)

    def inputs_of(self, stage: str) -> InputFunction:
        """Return the input function of a stage's rule: the paths that its artifact is made from."""

        def input_paths(wildcards: Any) -> list[str]:
            if not self.engine.has_storage:
                return self.study.input_paths(stage, wildcards.fingerprint)
            return storage.list_inputs(self.study.find_artifact(stage, wildcards.fingerprint))

        return input_paths

    def generation_inputs(self, wildcards: Any) -> list[str]:
        """Input function: the paths that answers are made from, and the mark of the group that generates them, if there is one."""
        # in one function: in a large plan Snakemake's call of an input function takes longer than the function
        paths = self.study.input_paths("generate", wildcards.fingerprint)
        group = load_groups.find_group(self.groups, wildcards.fingerprint)
        return [*paths, GROUP_DONE.format(group=group)] if group else paths

    def group_inputs(self, wildcards: Any) -> list[str]:
        """Input function: the paths that the job of a group reads."""
        return load_groups.group_inputs(self.groups[wildcards.group])

    def group_fingerprints(self, wildcards: Any) -> list[str]:
        """Params function: the fingerprints of the answers that a group generates."""
        return [answers.fingerprint for answers in self.groups[wildcards.group]]

    def start(
        self,
        rules: Sequence[str],
        *,
        device: str,
        runs_here: bool,
        pods: kubernetes.PodSettings | None = None,
    ) -> None:
        """Acquire the run lock, and start the preloaded parent of the jobs; exit with one line if that fails.

        Args:
            rules: the rule of each job that will run.
            device: that the jobs are to use.
            runs_here: whether the jobs run on this machine, and not on a cluster.
            pods: settings of the jobs' pods; None: not on Kubernetes.
        """
        try:
            if pods:
                kubernetes.check_pods(pods, gpus=self.devices.gpus, grouped=bool(self.groups))
            # Only now: a dry run plans as well, and needs no lock.
            processes.acquire_run_lock(self.root, self.previous_run)
            if COMPUTING & set(rules) and lacks_quantized_results(self.study.artifacts):
                require_bitsandbytes(self.study.where)
            if {"query", "query_teacher"} & set(rules):
                check_keys(self.endpoint_plans)
            if self.site and not runs_here:
                check_site(self.site, gpus=self.devices.gpus if COMPUTING & set(rules) else 0)
                queue.cancel_orphans(self.root)
            for stage in STAGES.keys() & set(rules):
                io.check_writable(Path(STAGES[stage].folder))
            if runs_here and self.machine.portable and {*COMPUTING, *resources.WITHOUT_GPU} & set(rules):
                # before a server loads torch for the jobs; on other machines, each job limits itself
                limit_kernels("--config")
            if runs_here and not self.engine.methods and COMPUTING & set(rules):
                devices.check_device(device, gpus=self.machine.gpus_per_job or 1)
        except UserError as error:
            sys.exit(f"error: {error}")
        if (
            runs_here
            and COMPUTING & set(rules)
            and (warning := warn_of_large_models(self.study, device=device))
        ):
            print(warning, file=sys.stderr)
        if "report" in rules and "DVC_STAGE" not in os.environ and (self.root / ".git").exists():
            workarounds.keep_reports(self.root)
        # Only these jobs import torch; loading it ahead pays off if there are several. Without models no job does.
        # Jobs in another environment must not use the packages of this one.
        if not self.study.runs or self.engine.methods:
            return
        heavy = {*HEAVY, GROUP_RULE, FETCH_BASE}
        warm.start_server(sum(rule in heavy and (runs_here or rule in self.local_rules) for rule in rules))


def _check_folders(config: Mapping[str, Any], root: Path) -> None:
    """Refuse a run outside the checkout, in a read-only checkout, or with a data_root that is no folder.

    Artifacts' paths are relative to the checkout.
    """
    root = root.resolve()
    if Path.cwd().resolve() != root:
        raise UserError(
            f"snakemake runs in {Path.cwd()}, but results belong in {root}; run it there, without --directory: cd {root}"
        )
    for folder in (root, root / ".snakemake"):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise UserError(f"{folder}: read-only, and Snakemake writes to it; work in a copy or a clone")
    data_root = config.get("data_root") or os.environ.get("PIPELINE_DATA_ROOT")
    if data_root and not Path(str(data_root)).is_dir():
        raise UserError(f"data_root: there is no folder {Path(str(data_root)).absolute()}")


def plan_run(config: Mapping[str, Any], *, root: Path, engine: Engine) -> StudyRun:
    """Load the study and seeds that ``--config`` selects, and take its results back from the store; exit with one line on a mistake.

    Args:
        config: of Snakemake.
        root: of the checkout.
        engine: how Snakemake was called.
    """
    image = str(config.get("container", software.IMAGE))
    if engine.is_main_process:
        processes.exit_with_caller()
        processes.register_as_caller()
    previous_run = processes.last_run(root)
    plans: Sequence[TaskPlan] = ()
    try:
        if engine.is_main_process:
            profiles.check_profiles(profiles.list_profiles(sys.argv[1:], os.environ, root))
            software.check_image(engine.methods, image)
        _check_folders(config, root)
        site, options = split_site(config)
        machine = check_config_options(options)
        if site:
            check_nodes(site.nodes, processes=int(str(options.get("processes", 1))))
        if machine.models_root is None and (root_of_models := os.environ.get(MODELS_ROOT)):
            # a job of a cluster may run without this environment
            machine = machine.model_copy(update={"models_root": root_of_models})
        # for the size of local bases, from which jobs of Slurm request their memory
        set_models_root(machine.models_root)
        name = config.get("study")
        # Snakemake reads a number in --config as a number
        study = load_study(None if name is None else str(name), seeds=config.get("seeds"))
        check_machine(study.artifacts["train"], machine)
        # Before Snakemake looks for missing files, so that a reverted parameter reruns nothing.
        store.restore_study(study)
        if engine.is_main_process:
            if not (root / ".git").exists():
                print(f"warning: {lock.NO_GIT}", file=sys.stderr)
            lock.warn_of_invalid_lock(root)
            workarounds.delete_invalid_rwlock(root)
            plans = plan_missing(study)
            print_plan(plans, study=study.name)
    except UserError as error:
        # Snakemake would print an exception of the Snakefile with a traceback.
        sys.exit(f"error: {error}")
    groups = load_groups.group_answers(study, config.get("adapters_per_load", 1), root=root)
    device, count = str(config.get("device", "auto")), int(config.get("processes", 1))
    gpus = 0 if (site or engine.has_storage) and device == "cpu" else machine.gpus_per_job or 1
    computing = resources.Devices(gpus, count, machine.threads or 1)
    return StudyRun(study, root, previous_run, machine, groups, site, computing, engine, image, plans)
