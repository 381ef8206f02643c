# SPDX-License-Identifier: Apache-2.0
"""Every command that a text prints is taken by the program's own parser; sibling verbs agree in their defaults."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import launch_loading
import pytest
import yaml
from documented import ROOT, Printed, example_of, other_commands, printed_commands

import training
from sigma_ros.cli.main import VERBS, app, load_verb

COMMANDS = printed_commands()
SIGMA = [command for command in COMMANDS if command.words[0] == "sigma"]
PYTHON = [command for command in COMMANDS if command.words[0] == "python" and command.whole]
LAUNCH = [command for command in COMMANDS if command.words[:2] == ["ros2", "launch"]]
ROS = [command for command in COMMANDS if command.words[0] == "ros2" and command.words[1] != "launch"]
MAKE = [command for command in COMMANDS if command.words[0] == "make"]

PARSE = """
import argparse, json, os, runpy, sys
class Parsed(BaseException): pass
real = argparse.ArgumentParser.parse_args
def parse_args(self, *args, **kwargs):
    real(self, *args, **kwargs)
    raise Parsed
argparse.ArgumentParser.parse_args = parse_args
for words in json.loads(sys.argv[1]):
    is_module = words[0] == "-m"
    sys.argv = words[1:] if is_module else words
    sys.path[:0] = [] if is_module else [os.path.dirname(words[0])]
    said = "it parsed no arguments"
    try:
        (runpy.run_module(words[1], run_name="__main__", alter_sys=True) if is_module
         else runpy.run_path(words[0], run_name="__main__"))
    except Parsed:
        said = ""
    except SystemExit as error:
        said = f"left with {error.code}"
    print("SAID " + json.dumps([words, said]), flush=True)
"""


def names(command: Printed) -> str:
    return f"{command.where}: {command.text[:60]}"


def refused(command: Printed) -> str:
    """What `sigma`'s own parser has against a command; empty where it takes it."""
    words = command.words[1:]
    if not words or words[0].startswith("-"):
        return ""
    if words[0] not in VERBS:
        return f"there is no verb {words[0]}"
    parser: Any = load_verb(words[0])
    name, rest = words[0], words[1:]
    while True:
        try:
            context = parser.make_context(name, list(rest))
        except Exception as error:
            kind = type(error).__name__
            mention = not command.whole and kind in ("MissingParameter", "NoArgsIsHelpError")
            return "" if mention else f"{kind}: {error}"
        if not hasattr(parser, "commands"):
            return ""
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            return ""
        if rest[0] not in parser.commands:
            return f"sigma {name} has no {rest[0]}"
        name, parser, rest = rest[0], parser.commands[rest[0]], rest[1:]


OF_OTHERS = {
    ".": "activates an environment",
    "colcon": "test/packaging/test_colcon_build.py builds so",
    "lerobot-eval": "test/lerobot/test_lerobot_page.py runs what the page prints",
    "lerobot-train": "test/lerobot/test_lerobot_page.py runs what the page prints",
    "pip": "installs",
    "python3": "makes an environment",
}
"""Programs in shell blocks that no parser of ours judges, and why that is enough."""


def test_every_line_of_a_shell_block_is_judged_or_of_a_named_program() -> None:
    unknown = [(page, text) for page, text in other_commands() if text.split()[0] not in OF_OTHERS]
    assert unknown == []
    assert {text.split()[0] for _, text in other_commands()} == OF_OTHERS.keys(), "the list only names what is there"


def test_there_are_commands_of_every_kind_to_look_at():
    assert min(len(SIGMA), len(PYTHON), len(LAUNCH), len(MAKE)) > 5
    assert len({" ".join(command.words[1:3]) for command in ROS}) == 5


@pytest.mark.parametrize("command", SIGMA, ids=names)
def test_every_printed_sigma_command_is_taken_by_its_parser(command: Printed) -> None:
    assert not refused(command), f"{command.where}: {command.text}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_in_help_is_taken_by_its_parser(verb: str) -> None:
    parser: Any = load_verb(verb)
    commands = [parser, *getattr(parser, "commands", {}).values()]
    examples = [example for command in commands for example in example_of(command.help or "")]
    assert examples, f"sigma {verb} --help prints no example"
    for example in examples:
        if example.words[0] == "sigma":
            assert not refused(example), example.text


def test_the_example_of_sigma_itself_is_taken() -> None:
    for example in example_of(app.registered_callback.callback.__doc__):  # type: ignore[union-attr,arg-type]
        assert not refused(example), example.text


def test_what_the_law_refuses() -> None:
    """A verb, an option or a choice that is not there, and a command without what it must have."""
    for text in ("sigma look bag", "sigma replay --bags x", "sigma replay --out x", "sigma record --jpeg much"):
        assert refused(Printed("here", text, whole=True)), text
    assert not refused(Printed("here", "sigma replay --out x", whole=False))


TRAINING_EXAMPLES = [e for verb in training.VERBS for e in example_of(load_verb(verb).help or "")]


def as_module(command: Printed) -> list[str]:
    """`sigma train ...`, whose verb hands everything on, as `-m training.train ...`."""
    return ["-m", f"training.{training.VERBS[command.words[1]]}", *command.words[2:]]


def has_a_parser(command: Printed) -> bool:
    """Whether a script takes arguments at all; modules do. One that takes none would run here."""
    script = command.words[1]
    return script == "-m" or "parse_args" in (ROOT / script).read_text(encoding="utf-8")


def test_every_printed_script_is_there_and_gets_no_arguments_that_it_does_not_take() -> None:
    for command in (command for command in COMMANDS if command.words[0] == "python" and command.words[1] != "-m"):
        assert (ROOT / command.words[1]).is_file(), command.text
        takes_any = has_a_parser(command) or "sys.argv" in (ROOT / command.words[1]).read_text(encoding="utf-8")
        assert takes_any or len(command.words) == 2, command.text


@pytest.mark.slow
def test_every_printed_python_command_is_taken_by_its_parser() -> None:
    asked = [command.words[1:] for command in PYTHON if has_a_parser(command)]
    asked += [as_module(c) for c in [*SIGMA, *TRAINING_EXAMPLES] if c.whole and c.words[1] in training.VERBS]
    done = subprocess.run(
        [sys.executable, "-c", PARSE, json.dumps(asked)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    said = [json.loads(line.removeprefix("SAID ")) for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert [words for words, _ in said] == asked, done.stderr[-2000:]
    assert [(words, problem) for words, problem in said if problem] == [], done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.gl
def test_the_readmes_recording_and_replay_show_a_sigma_that_beats_its_base(tmp_path: Path) -> None:
    """As typed, defaults and all: a set-up that is the base's own would show the contrary."""
    typed = [c for c in SIGMA if c.where == "README.md" and c.whole and c.words[1] in ("record", "replay")]
    assert [command.words[1] for command in typed] == ["record", "replay"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for command in typed:
        words = [sys.executable, "-m", "sigma_ros.cli.main", *command.words[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["bag"]["setup"] == "target"
    assert report["verdict"]["headline"].startswith("After the supervisor, Sigma beats its base")
    assert report["comparison"]["mse_trj"]["verdict"] == "better"
    assert "applied of" in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", LAUNCH, ids=names)
def test_every_printed_launch_has_its_file_and_arguments(command: Printed) -> None:
    _, _, _, file, *given = command.words
    assert (ROOT / "launch" / file).is_file()
    known = launch_loading.arguments(ROOT / "launch" / file)
    assert {word.partition(":=")[0] for word in given if ":=" in word} <= known.keys()


def misses(words: list[str]) -> str:
    """What a `ros2` command names that is not there: an executable, a service, a field of the action, a parameter."""
    from sigma_ros.action import RunPolicy  # noqa: PLC0415

    from sigma_ros.nodes.shared import topics  # noqa: PLC0415
    from sigma_ros.nodes.shared.node_options import NODES  # noqa: PLC0415
    from sigma_ros.nodes.shared.parameters import specs  # noqa: PLC0415

    names = {f"/{value}" for name, value in vars(topics).items() if name[0].isupper() and isinstance(value, str)}
    what, rest = " ".join(words[1:3]), [word for word in words[3:] if not word.startswith("-")]
    if words[1] == "run":
        return "" if (ROOT / "sigma_ros" / "nodes" / f"{words[3]}.py").is_file() else words[3]
    if what == "param set":
        options = NODES["policy_node" if rest[0] == f"/{topics.POLICY_NODE}" else "supervisor_node"]
        known = [spec.name for spec in specs(options) if not spec.read_only]
        return "" if rest[1] in known else rest[1]
    if rest[0] not in names:
        return rest[0]
    if what == "param load":
        return ""
    if what == "service call":
        return "" if rest[1] == "std_srvs/srv/Trigger" else rest[1]
    unknown = set(yaml.safe_load(rest[2])) - set(RunPolicy.Goal.get_fields_and_field_types())
    return "" if rest[1] == "sigma_ros/action/RunPolicy" and not unknown else f"{rest[1]} {unknown}"


@pytest.mark.ros
@pytest.mark.parametrize("command", ROS, ids=names)
def test_every_printed_ros2_command_names_what_there_is(command: Printed) -> None:
    pytest.importorskip("sigma_ros.action", reason="the messages are not built")
    assert not command.whole or not misses(command.words), command.text


@pytest.mark.parametrize("command", MAKE, ids=names)
def test_every_printed_make_target_exists(command: Printed) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command.words[1] in targets


def defaults(verb: str) -> dict[str, object]:
    """The default of each option by its name."""
    return {name: entry.default for entry in load_verb(verb).params for name in entry.opts}


@pytest.mark.parametrize("option", ["--setup", "--checkpoint", "--contract", "--seed", "--replan-ticks", "--max-scale"])
def test_sibling_verbs_have_the_same_default(option: str) -> None:
    """What `record` makes is what `sim` runs on, `demo` shows and `replay` scores."""
    found = {verb: defaults(verb).get(option) for verb in ("record", "sim", "replay", "evaluate")}
    given = {verb: value for verb, value in found.items() if value not in (None, ...) and "<" not in str(value)}
    assert len(set(given.values())) <= 1, found


def test_a_recording_is_of_the_target_setup_and_coded() -> None:
    assert (defaults("record")["--setup"], defaults("record")["--jpeg"]) == ("target", 90)


HELP = """
import contextlib, io, json, sys
from sigma_ros.cli.main import app
said = {}
for path in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            app([*path, "--help"], prog_name="sigma", standalone_mode=False)
        except SystemExit as left:
            assert not left.code, (path, left.code)
    said[" ".join(path)] = text.getvalue()
print(json.dumps(said))
"""


def paths_of(verb: str) -> dict[str, Any]:
    """The commands of a verb and of what stands below it, by the words that call them."""
    command: Any = load_verb(verb)
    return {verb: command, **{f"{verb} {name}": each for name, each in getattr(command, "commands", {}).items()}}


OWN_HELP = [verb for verb in VERBS if verb not in training.VERBS]
"""The training package's verbs print its help and load torch for that: `test/cli/test_training.py`."""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What `--help` prints at 80 columns, by the words that call a command: one process for all."""
    paths = [path.split() for verb in OWN_HELP for path in paths_of(verb)]
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin", "COLUMNS": "80", "TERMINAL_WIDTH": "80", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("verb", OWN_HELP)
def test_help_at_80_columns_cuts_no_name_off_and_offers_no_completion(verb: str, helps: dict[str, str]) -> None:
    for path, command in paths_of(verb).items():
        assert verb in helps[path]
        missing = [name for entry in command.params for name in entry.opts if "-" in name and name not in helps[path]]
        assert missing == [], path
        assert "--install-completion" not in helps[path]
