# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's files are: shipped with the package, in a folder, or on the Hub; and how they get there.

From the Hub come the small files first; the weights follow when everything else was found to fit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sigma_ros.errors import CheckpointError, UsageError

CONFIG_FILE = "config.json"
MANIFEST_FILE = "sigma_config.json"
MINI_NAME = "mini"
SHIPPED_BASES = {MINI_NAME: "mini"}
SHIPPED_SIGMAS = {MINI_NAME: "mini_sigma", "mini-memory": "mini_memory"}
"""Small models that ship with the package, wherever it is installed: name -> folder. Both Sigmas are on base mini."""
SMALL_FILES = ("*.json", "tokenizer*", "policy_*.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?P<inside>(/[\w.-]+)*)")
_INSIDE = ("", "pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model", "checkpoint")
"""Where a checkpoint is below the folder that lerobot-train or training.train wrote to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A checkpoint's folder on this disk; from the Hub also the repository, its commit and the folder inside it."""

    path: Path
    source: str
    repo: str | None = None
    commit: str | None = None
    inside: str = ""

    def fetch(self, *patterns: str) -> None:
        """Makes more files of the folder present (names or `*`); does nothing where it is not from the Hub."""
        if self.repo is not None:
            _fetch(self.repo, self.commit, self.inside, patterns, source=self.source)


def find_checkpoint(
    source: str | Path, *, revision: str | None = None, shipped: Mapping[str, str] = SHIPPED_BASES
) -> Place:
    """The folder of a `shipped` name, of a path, or of a Hub id; `owner/name/sub/folder` is one inside a repository.

    A path may also be a training's output: its last checkpoint is meant.

    Raises:
        UsageError: `source` is neither a folder nor shaped like a Hub id.
        CheckpointError: the Hub does not give it.
    """
    text = str(source)
    path = shipped_assets(shipped[text]) if text in shipped else Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UsageError("a revision belongs to a Hub id", where=text, got=f"a folder and revision {revision}")
        return Place(path=_checkpoint_in(path), source=text)
    found = _HUB_ID.fullmatch(text)
    parts = PurePosixPath(text).parts
    if found is None or {".", ".."} & set(parts) or (len(parts) > 2 and Path(parts[0]).exists()):
        raise UsageError(
            "no such checkpoint",
            where=text,
            expected="a folder, or a Hub id such as lerobot/pi05_base",
            remedy=f"give an existing folder, or {' or '.join(shipped)} for a model that ships with the package",
        )
    repo, inside = found["repo"], found["inside"].strip("/")
    root = _fetch(repo, revision, inside, SMALL_FILES, source=text)
    return Place(path=root / inside, source=text, repo=repo, commit=root.name, inside=inside)


def is_hub_id(text: str) -> bool:
    """Whether a text names something that others find too: `owner/name`, and no folder here."""
    return _HUB_ID.fullmatch(text) is not None and not Path(text).exists()


def check_pushable(repo: str, *, base: str) -> None:
    """Before costly work: can others load what will be pushed?

    Raises:
        UsageError: `repo` is not `owner/name`, or the base is a folder on this disk.
    """
    found = _HUB_ID.fullmatch(repo)
    if found is None or found["inside"]:
        raise UsageError("this cannot be a repository's name", where="--push_to_hub", expected="owner/name", got=repo)
    if base != MINI_NAME and not is_hub_id(base):
        raise UsageError(
            "others could not load the checkpoint: its base is on this disk alone",
            where="--push_to_hub",
            expected="a base by its Hub id, or mini",
            got=base,
            remedy="upload the base (`hf upload OWNER/NAME FOLDER`) and train with that id",
        )


def _checkpoint_in(folder: Path) -> Path:
    for inside in _INSIDE:
        if any((folder / inside / name).is_file() for name in (CONFIG_FILE, MANIFEST_FILE, "adapter_config.json")):
            return folder / inside
    return folder


def _fetch(repo: str, revision: str | None, inside: str, patterns: tuple[str, ...], *, source: str) -> Path:
    below = f"{inside}/" if inside else ""
    try:
        root = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[below + pattern for pattern in patterns],
            ignore_patterns=[below + "*/*"],  # a `*` of the Hub's patterns matches slashes too
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise CheckpointError(
            "the checkpoint cannot be fetched from the Hub",
            where=f"{source}@{revision or 'main'}",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy="check name, revision, network and access, or give a local folder",
        ) from error
    return Path(root)


def shipped_assets(name: str) -> Path:
    """Folder of a model that ships with the package, in the source tree or install space."""
    package = Path(__file__).resolve().parents[2]
    candidates = [package / "assets" / name]
    candidates += [parent / "share" / "sigma_ros" / "assets" / name for parent in package.parents]
    for candidate in candidates:
        if any((candidate / file).is_file() for file in (CONFIG_FILE, MANIFEST_FILE)):
            return candidate
    raise CheckpointError(
        "the small model that ships with the package was not found",
        expected=candidates[0],
        remedy="install the package again, or make one with: sigma model make-mini --out DIR",
    )


def refuse_empty(place: Place, file: str) -> None:
    """Says what is in a place that lacks the one file a checkpoint begins with, and what to do about it.

    Raises:
        CheckpointError: always.
    """
    names = _names_in(place)
    pickles = [name for name in names if name.endswith(PICKLES)]
    folders = [str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == file]
    if pickles:
        got = f"pickle files, which are never opened: {', '.join(pickles[:6])}"
        remedy = (
            "a pickle may run any code; `python -m training.convert_pt --weights FILE --out FILE.safetensors` reads "
            "the tensors alone. The published Sigma's sizes are not published, so its heads fit no network here: "
            "train one with training.train"
        )
    elif folders:
        got, remedy = f"{file} in {', '.join(folders[:6])}", f"name one of them: {place.source}/{folders[0]}"
    else:
        got, remedy = ", ".join(names[:8]) or "nothing", "give the folder that holds it, or a Hub id"
    raise CheckpointError("this is no checkpoint", where=place.source, expected=file, got=got, remedy=remedy)


def _names_in(place: Place) -> list[str]:
    if place.repo is not None:
        try:
            names = HfApi().list_repo_files(place.repo, revision=place.commit)
        except (HfHubHTTPError, httpx.HTTPError, OSError, LocalEntryNotFoundError):
            names = []
        if names:
            return sorted(names)
    files = (file for depth in range(1, 5) for file in place.path.glob("/".join("*" * depth)) if file.is_file())
    return sorted(file.relative_to(place.path).as_posix() for file in files)
