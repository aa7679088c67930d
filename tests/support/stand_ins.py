"""Stand-ins for programs that cannot run in a test: each checks its arguments and runs the commands in them here.

`python -m tests.support.stand_ins NAME ARGUMENT...` acts as the program NAME. A stand-in knows the options that the
pages below docs use, and fails for others.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.command import ROOT

Arguments = list[str]


def run(command: str | Arguments, **environment: str) -> None:
    """Run a command here; end this program with its exit code if it fails."""
    shell = ["bash", "-c", command] if isinstance(command, str) else command
    code = subprocess.run(shell, env={**os.environ, **environment}, check=False).returncode
    if code:
        sys.exit(code)


def require(condition: object, problem: str) -> None:
    """End this program with a message unless a condition is met."""
    if not condition:
        sys.exit(f"{Path(sys.argv[0]).name}: {problem}")


def sbatch(arguments: Arguments) -> None:
    """Check a batch script and run it, once for each id of its array, here and now."""
    options = [argument for argument in arguments if argument.startswith("-")]
    require(all(re.match(r"--(parsable|wait|dependency=afterok:\d+|wrap=.+)$", o) for o in options), f"{options}")
    wrapped = next((o.removeprefix("--wrap=") for o in options if o.startswith("--wrap=")), None)
    scripts = [argument for argument in arguments if not argument.startswith("-")]
    text = Path(scripts[0]).read_text() if wrapped is None else f"#!/bin/bash\n{wrapped}\n"
    require(text.startswith("#!/"), "a batch script begins with the line of its interpreter")
    run(["bash", "-n", *scripts])
    cpus = re.search(r"^#SBATCH --cpus-per-task=(\d+)$", text, re.MULTILINE)
    environment = {"SLURM_JOB_ID": "1", **({"SLURM_CPUS_PER_TASK": cpus[1]} if cpus else {})}
    array = re.search(r"^#SBATCH --array=(\d+)-(\d+)(%\d+)?$", text, re.MULTILINE)
    for number in range(int(array[1]), int(array[2]) + 1) if array else [None]:
        ids = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": array[2]} if array else {}
        run(["bash", "-c", text], **environment, **ids)
    print("1" if "--parsable" in options else "Submitted batch job 1")


def srun(arguments: Arguments) -> None:
    """Run a command."""
    run(arguments)


def kubectl(arguments: Arguments) -> None:
    """Run the commands of the Jobs in a file, once for each index; volumes are the current folder."""
    if arguments[0] in ("wait", "delete", "logs"):
        require(len(arguments) > 1, "requires an object")
        return
    require(arguments[:2] == ["apply", "-f"], f"{arguments}")
    for document in yaml.safe_load_all(Path(arguments[2]).read_text()):
        require(document["kind"] == "Job" and document["apiVersion"] == "batch/v1", "a Job of batch/v1")
        for index, container in _containers(document["spec"]):
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            command = [_here(word, mounts) for word in container.get("command", ["normcli"]) + container["args"]]
            run(command, JOB_COMPLETION_INDEX=str(index))
        print(f"job.batch/{document['metadata']['name']} created")


def _containers(spec: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the containers of a Job with the index of their pod."""
    pod = spec["template"]["spec"]
    require(pod["restartPolicy"] in ("Never", "OnFailure"), "a Job requires a restartPolicy")
    require(spec.get("completions", 1) == 1 or spec.get("completionMode") == "Indexed", "requires an Indexed Job")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for index in range(spec.get("completions", 1)):
        for container in pod["containers"]:
            require({mount["name"] for mount in container["volumeMounts"]} <= volumes, "a mount without a volume")
            yield index, container


def _here(word: str, mounts: list[str]) -> str:
    """Return a word of a command with the paths of mounts as paths below the current folder."""
    for mount in mounts:
        word = re.sub(rf"(?<![\w/]){re.escape(mount)}(?=/|$|\s)", str(Path.cwd()), word)
    return word


def docker(arguments: Arguments) -> None:
    """Run the command of `docker run` in the folder of its volume; `docker build` checks that there is a Dockerfile."""
    if arguments[0] == "build":
        require(arguments[-1] == ".", f"{arguments}")
        return
    require(arguments[0] == "run", f"{arguments}")
    words = iter(arguments[1:])
    mounts = []
    for word in words:
        if word in ("-v", "--volume"):
            here, mount = next(words).split(":")[:2]
            require(here == str(Path.cwd()), "the volume must be the current folder")
            mounts.append(mount)
        elif word in ("-u", "--user", "--cpus", "-w", "--workdir"):
            next(words)
        elif not word.startswith("-"):
            require(word == "normcli", f"an image called {word}")
            break
    run(["normcli", *(_here(word, mounts) for word in words)])


def dvc(arguments: Arguments) -> None:
    """Run the stages of dvc.yaml in the order of their dependencies."""
    require(arguments[0] == "repro", f"{arguments}")
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    _make(
        {
            name: (_paths(stage, "deps"), _paths(stage, "outs") + _paths(stage, "metrics"), stage["cmd"])
            for name, stage in stages.items()
        }
    )


def _paths(stage: dict[str, Any], key: str) -> list[str]:
    """Return the paths of `deps` or `outs`: strings, or mappings of one key."""
    return [path if isinstance(path, str) else next(iter(path)) for path in stage.get(key, [])]


def snakemake(arguments: Arguments) -> None:
    """Run the rules of a Snakefile without wildcards, in the order of their inputs."""
    require(all(word.startswith("-") or word.isdigit() for word in arguments), f"{arguments}")
    text = Path("Snakefile").read_text()
    rules = {}
    for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE):
        parts = {key: re.findall(r'"([^"]*)"', value) for key, value in _directives(body)}
        command = "".join(parts.get("shell", []))
        inputs, outputs = parts.get("input", []), parts.get("output", [])
        rules[name] = inputs, outputs, command.format(input=" ".join(inputs), output=" ".join(outputs), threads=2)
    _make(rules)


def _directives(body: str) -> list[tuple[str, str]]:
    return re.findall(r"^    (\w+):((?:.*\n)(?:        .*\n)*)", body, re.MULTILINE)


def _make(rules: dict[str, tuple[list[str], list[str], str]]) -> None:
    """Run rules of (inputs, outputs, command), each after those that make its inputs; outputs must appear."""
    waiting = dict(rules)
    while waiting:
        made_later = {path for _, outputs, _ in waiting.values() for path in outputs}
        ready = [name for name, (inputs, _, _) in waiting.items() if not made_later.intersection(inputs)]
        require(ready, "a cycle")
        for name in ready:
            inputs, outputs, command = waiting.pop(name)
            absent = [path for path in inputs if not Path(path).exists()]
            require(not absent, f"{name}: no {absent}")
            if command:
                run(command)
            absent = [path for path in outputs if not Path(path).exists()]
            require(not absent, f"{name}: did not write {absent}")


def pip(arguments: Arguments) -> None:
    """Check that `pip install` names extras of normcli."""
    require(arguments[0] == "install", f"{arguments}")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in arguments[1:]:
        match = re.fullmatch(r"normcli(?:\[([\w,]+)\])?", word)
        require(match, f"{word} is not normcli")
        extras = (match[1] or "").split(",") if match else []
        require(all(extra in known for extra in extras if extra), f"unknown extra in {word}")


def pre_commit(arguments: Arguments) -> None:
    """Run the local hooks of .pre-commit-config.yaml."""
    require(arguments == ["run", "--all-files"], f"{arguments}")
    for repository in yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["repos"]:
        require(repository["repo"] == "local", "a local repository")
        for hook in repository["hooks"]:
            require({"id", "name", "entry", "language"} <= set(hook), f"{hook}")
            run(hook["entry"])


STAND_INS: dict[str, Callable[[Arguments], None]] = {
    "sbatch": sbatch,
    "srun": srun,
    "kubectl": kubectl,
    "docker": docker,
    "dvc": dvc,
    "snakemake": snakemake,
    "pip": pip,
    "pre-commit": pre_commit,
}

if __name__ == "__main__":
    sys.argv[0] = sys.argv[1]
    STAND_INS[sys.argv[1]](sys.argv[2:])
