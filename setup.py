# SPDX-License-Identifier: Apache-2.0
"""Installs the Python package with pip; colcon uses CMakeLists.txt and package.xml instead."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(*groups: str) -> list[str]:
    """Requirement lines of `requirements/<group>.in`, without comments."""
    lines = [
        line.split("#")[0].strip()
        for group in groups
        for line in (ROOT / "requirements" / f"{group}.in").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if line]


def package_version() -> str:
    """The version that `sigma_ros/__init__.py` states."""
    text = (ROOT / "sigma_ros" / "__init__.py").read_text(encoding="utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


setup(
    name="sigma_ros",
    version=package_version(),
    description="Sigma on an SO-101 arm: a vision-language-action policy proposes, a supervisor disposes.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="sigma_ros developers",
    license="Apache-2.0",
    keywords=["robotics", "ROS 2", "vision-language-action model", "SO-101", "pi0.5", "LeRobot"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    project_urls={
        "Paper": "https://arxiv.org/abs/2512.00783",
        "Model card": "https://huggingface.co/Veltraxor/Sigma",
    },
    python_requires=">=3.12",
    packages=[
        *find_namespace_packages(include=["sigma_ros", "sigma_ros.*"]),
        *(f"sigma_ros.{name}" for name in find_packages(include=["training", "training.*"])),
    ],
    package_dir={"sigma_ros.training": "training"},
    include_package_data=True,
    data_files=[
        (
            f"share/sigma_ros/{folder}",
            [str(p.relative_to(ROOT)) for p in sorted((ROOT / folder).glob("*")) if p.is_file()],
        )
        for folder in ("config", "config/security")
    ],
    install_requires=requirements("core", "model"),
    extras_require={
        "ros": requirements("ros"),
        "arm": requirements("arm"),
        "sim": requirements("sim"),
        "train": requirements("train"),
        "fleet": requirements("fleet"),
        "rerun": requirements("rerun"),
        "onnx": requirements("onnx"),
        "test": requirements("test"),
    },
    entry_points={"console_scripts": ["sigma = sigma_ros.cli.main:main"]},
)
