# SPDX-License-Identifier: Apache-2.0
"""The command `sigma`: fast help, one message for one failure, honest exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigma_ros import __version__
from sigma_ros.cli import main
from sigma_ros.cli import main as failures
from sigma_ros.cli.main import VERBS, app
from sigma_ros.errors import BagError, SigmaError, UsageError, show_error

ROOT = Path(__file__).resolve().parents[2]
RUN = CliRunner()
Typed = Callable[..., subprocess.CompletedProcess[str]]


def test_help_of_sigma_and_of_every_verb_loads_nothing_heavy() -> None:
    """In one process, verb after verb: the first one that loads something is named."""
    heavy = ["torch", "mujoco", "rosbags", "rclpy", "cv2", "pyarrow"]
    code = (
        "import sys\nfrom sigma_ros.cli.main import VERBS, load_verb, main\nsys.argv = ['sigma', '--help']\n"
        f"def loaded(): return [name for name in {heavy} if name in sys.modules]\n"
        "try: main()\nexcept SystemExit: print('LOADED', *loaded())\n"
        "for verb in VERBS:\n    load_verb(verb)\n    print(verb, *loaded())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    shown, _, after = result.stdout.partition("LOADED")
    assert "contract" in shown
    assert after.splitlines() == ["", *VERBS]


def test_version_is_printed() -> None:
    result = RUN.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"sigma_ros {__version__}"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("replay", "--bag", "x"), "Missing option"),
        (("replay", "--nosuch"), "No such option: --nosuch"),
        (("record", "--jpeg", "much"), "a valid integer"),
    ],
)
def test_wrong_usage_is_one_of_our_errors_with_an_example(typed: Typed, words: tuple[str, ...], what: str) -> None:
    result = typed(*words)
    assert result.returncode == 2
    said = " ".join(result.stderr.split())
    assert said.startswith("error: ")
    assert what in said
    assert f"where sigma {words[0]} remedy sigma {words[0]} --" in said
    assert said.endswith(f"sigma {words[0]} --help")


def test_a_place_that_is_not_there_is_told_before_seconds_of_imports() -> None:
    commands = [
        ["replay", "--bag", "absent", "--checkpoint", "mini", "--out", "never"],
        ["evaluate", "absent", "--checkpoint", "mini", "--out", "never"],
        ["train", "--dataset_dir", "absent", "--output_dir", "never"],
        ["train-eval", "--dataset_dir", "absent", "--checkpoint", "c", "--out", "never"],
    ]
    code = (
        f"import sys\nfrom sigma_ros.cli.main import main\nfor words in {commands}:\n    sys.argv = ['sigma', *words]\n"
        "    try: main()\n    except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stdout.splitlines() == ["2 False"] * len(commands), result.stderr
    assert result.stderr.count("there is no such") == result.stderr.count("absent") == len(commands)


def test_unknown_verb_is_wrong_usage_with_a_suggestion(typed: Typed) -> None:
    result = typed("contrakt")
    assert result.returncode == 2
    assert "contract" in result.stderr


def test_a_failure_is_one_block_on_stderr_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, failures.explained():
        raise BagError(
            "the bag ends early", where="run.mcap", expected="a footer", got="12 bytes", remedy="record again"
        )
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line.split() for line in output.err.splitlines()]
    assert lines[0] == ["error:", "the", "bag", "ends", "early"]
    assert [line[0] for line in lines[1:]] == ["where", "expected", "got", "remedy"]


def test_wrong_usage_leaves_with_2() -> None:
    with pytest.raises(SystemExit) as caught, failures.explained():
        raise UsageError("no")
    assert caught.value.code == 2


def test_interruption_leaves_with_130() -> None:
    with pytest.raises(SystemExit) as caught, failures.explained():
        raise KeyboardInterrupt
    assert caught.value.code == 130


@pytest.mark.parametrize(
    ("package", "remedy"), [("mujoco", "sigma_ros[sim]"), ("rclpy", "env.sh"), ("other.part", "again")]
)
def test_a_missing_package_is_answered_with_what_brings_it(
    capsys: pytest.CaptureFixture[str], package: str, remedy: str
) -> None:
    with pytest.raises(SystemExit) as caught, failures.explained():
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    assert caught.value.code == 1
    assert remedy in capsys.readouterr().err.replace("\n", "")


def test_a_missing_module_of_our_own_is_a_bug_and_shown_as_one() -> None:
    with pytest.raises(ModuleNotFoundError), failures.explained():
        raise ModuleNotFoundError("No module named 'sigma_ros.control.x'", name="sigma_ros.control.x")


def test_an_old_python_is_refused_with_the_one_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"expected  3\.12 or newer\n  got       3\.10\.13"):
        main.main()


def test_contract_check_shows_a_right_contract(typed: Typed) -> None:
    result = typed("contract", "check", "so101")
    assert result.returncode == 0, result.stderr
    for text in ("no problem found", "shoulder_pan", "limits [rad]", "/up_camera/image_raw", "30 Hz", "fixed_finger"):
        assert text in result.stdout


def test_contract_check_lists_every_problem_and_leaves_with_2(typed: Typed, tmp_path: Path) -> None:
    text = (ROOT / "config" / "so101.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("fps: 30", "fps: x").replace("rate_hz: 50", "rate_hz: 0"), encoding="utf-8")
    result = typed("contract", "check", wrong)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "2 problem(s)" in result.stderr
    assert "fps must be a finite number" in result.stderr
    assert "command.rate_hz must be within" in result.stderr


def test_an_error_has_a_line_for_each_part_and_a_long_path_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/" + "/".join(["a_long_folder"] * 20)
    show_error(SigmaError("no such bag", where=path, expected="one | or another", got=None, remedy="look"))
    said = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert said == ["error: no such bag", f"where     {path}", "expected  one", "or another", "remedy    look"]
