"""The environments and commands of contributors and of CI; `nox --list` shows them all."""

import datetime
import json
import pathlib
import re

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"  # virtualenv makes none for Python 3.7 any more
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests(newest)"]

# Of each version of TensorFlow: Python, and what pip is to install. The newest runs on two: the one
# of the older versions, and the newest that TensorFlow has a wheel for.
VERSIONS = {
    "1.15": ("3.7", ["tensorflow==1.15.5", "protobuf<3.21"]),
    "2.12": ("3.11", ["tensorflow-cpu==2.12.*", "numpy<1.24"]),
    "2.16": ("3.11", ["tensorflow-cpu==2.16.*"]),
    "newest": ("3.11", ["tensorflow-cpu"]),
    "newest-3.13": ("3.13", ["tensorflow-cpu"]),
}
# What the commands of the documents train: where, and how well at least.
ACCURACIES = {"train": ("mnist_run", 0.975), "cluster": ("cluster_run", 0.9)}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
TYPED = "tests/typed_user.py"
# A link in the site to nothing, and one to a heading that is not there.
DEAD_LINKS = '<a href="nowhere.html">page</a> <a href="index.html#nowhere">heading</a>'


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and static types."""
    session.install("-q", "-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
@nox.parametrize(
    "python, version", [nox.param(python, name, id=name) for name, (python, _) in VERSIONS.items()]
)
def tests(session: nox.Session, version: str) -> None:
    """All tests on one version of TensorFlow, or those that arguments for pytest select."""
    session.install("-q", *VERSIONS[version][1], "-e", ".[test]")
    version_line = "f'TensorFlow {tensorflow.__version__}, Python {platform.python_version()}'"
    session.run("python", "-c", f"import platform, tensorflow; print({version_line})", env=QUIET)
    session.run("python", "-m", "pytest", "-q", "-n", "2", *session.posargs, env=QUIET)


@nox.session
@nox.parametrize("keras", [*(f"3.{minor}" for minor in range(16)), "tf_keras"])
def keras(session: nox.Session, keras: str) -> None:
    """The tests of the Keras layer with another Keras beside the newest TensorFlow."""
    session.install("-q", "tensorflow-cpu", "dm-tree", "-e", ".[test]")
    package = "tf_keras" if keras == "tf_keras" else f"keras=={keras}.*"
    session.install("-q", "--no-deps", package)
    env = {**QUIET, "TF_USE_LEGACY_KERAS": str(int(keras == "tf_keras"))}
    session.run("python", "-m", "pytest", "-q", "-n", "2", "tests/keras", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in site/, after a run of the tutorial from a clean kernel; without a dead link."""
    session.install("-q", "-e", ".[cpu,tutorial,docs]")
    notebook = "python -m nbconvert --to notebook --execute --inplace --log-level=ERROR"
    options = "--ExecutePreprocessor.record_timing=False docs/tutorial.ipynb"
    session.run(*notebook.split(), *options.split())
    session.run("mkdocs", "build", "-q", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    check_links = ["linkchecker", "--config=.ci/linkcheckerrc", "site/index.html"]
    session.run(*check_links)
    planted = pathlib.Path("site/planted.html")  # Does the check see what it is there for?
    planted.write_text(DEAD_LINKS, "utf-8")
    command = [*check_links[:-1], "--recursion-level=1", str(planted)]
    found = session.run(*command, silent=True, success_codes=[1])
    planted.unlink()
    assert "1 warning found. 1 error found" in found, found


@nox.session(venv_backend="none")
@nox.parametrize("name", ["test", "train", "cluster"])
def documented(session: nox.Session, name: str) -> None:
    """A command of the documents, which makes an environment of its own."""
    pages = [pathlib.Path("README.md"), *pathlib.Path("docs").glob("*.md")]
    text = "".join(page.read_text("utf-8") for page in pages)
    (command,) = re.findall(rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", text, re.DOTALL)
    session.run("bash", "-euo", "pipefail", "-c", command, external=True, env=QUIET)
    if name in ACCURACIES:
        folder, least = ACCURACIES[name]
        metrics = json.loads((pathlib.Path(folder) / "metrics.json").read_text("utf-8"))
        session.log(metrics)
        if metrics["test_accuracy"] < least:
            session.error(f"expected a test accuracy of at least {least}")


@nox.session
def kernels(session: nox.Session) -> None:
    """A GPU kernel for every op, which the wheel with CUDA lists on any machine; calls on a GPU."""
    session.install("-q", "-e", ".[tensorflow,test]")
    for script in ("check_gpu_kernels.py", "gpu_smoke.py"):
        session.run("python", f"scripts/maintenance/{script}", env=QUIET)


@nox.session(venv_backend="none")
def version(session: nox.Session) -> None:
    """The version, the first heading of the changelog, and the tag if there is one, agree."""
    files = [pathlib.Path(name) for name in ("tf_centers/version.py", "CITATION.cff", "CHANGES.md")]
    forms = r'__version__ = "(.+)"', r"version: (\S+)", r"## (\S+) - (?:unreleased|\d{4}-\d\d-\d\d)"
    found = {
        path.name: re.search(rf"^{form}$", path.read_text("utf-8"), re.MULTILINE).group(1)
        for path, form in zip(files, forms)
    }
    command = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
    tags = session.run(*command, silent=True, external=True).split()
    found.update({tag: tag[1:] for tag in tags})
    session.log(found)
    if len(set(found.values())) != 1:
        session.error(f"expected one version, found {found}")
    if tags and f"## {tags[0][1:]} - unreleased" in files[2].read_text("utf-8"):
        session.error(f"{tags[0]}: expected a date in the first heading of CHANGES.md")


@nox.session
def pyright(session: nox.Session) -> None:
    """What pyright sees of the types; it brings Node.js along. `packages` does so for mypy."""
    session.install("-q", "pyright[nodejs]", "-e", ".[cpu]")
    session.run("pyright", f"--pythonpath={session.bin}/python", TYPED)


@nox.session
def packages(session: nox.Session) -> None:
    """The sdist and the wheel: what they hold, and how a user of the wheel fares."""
    root, folder = pathlib.Path.cwd(), pathlib.Path(session.create_tmp()).resolve()
    session.install("-q", "build", "check-manifest", "check-wheel-contents", "twine", "mypy")
    session.run("check-manifest")
    session.run("python", "-m", "build", "-q", "--outdir", str(folder / "dist"))
    (wheel,) = sorted((folder / "dist").glob("*.whl"))[-1:]
    session.run("check-wheel-contents", "--package=tf_centers", str(wheel))
    session.run("twine", "check", "--strict", *map(str, (folder / "dist").iterdir()))
    session.chdir(folder)  # from where the tree is not found
    session.run("pip", "uninstall", "-q", "-y", "tf_centers", "tensorflow-cpu", silent=True)
    session.install("-q", str(wheel))
    advice = session.run("python", "-c", "import tf_centers", silent=True, success_codes=[1])
    session.run(*advice.splitlines()[-1].rpartition(": ")[2].split(), "-q", "--dry-run")
    session.install("-q", f"{wheel}[cpu]")
    example = re.search(r"```python\n(.*?)```", (root / "README.md").read_text("utf-8"), re.DOTALL)
    session.run("python", "-c", example.group(1), env=QUIET)
    session.install("-q", "--no-deps", "tf_keras")  # which depends on tensorflow, not on the CPU's
    legacy = {**QUIET, "TF_USE_LEGACY_KERAS": "1"}
    session.run("python", "-c", "import tf_centers.keras", env=legacy)
    session.run("mypy", "--strict", f"--config-file={root}/pyproject.toml", str(root / TYPED))


@nox.session
def mutants(session: nox.Session) -> None:
    """Makes wrong edits of the package, one at a time; lists those that no test of the core sees.

    Takes hours; an argument such as `tf_centers/update.py` selects a module.
    """
    session.install("-q", "cosmic-ray", "-e", ".[cpu,test]")
    copy, config = pathlib.Path(session.create_tmp()) / "copy", ".ci/mutants.toml"
    session.run("git", "clone", "-q", ".", str(copy), external=True)
    session.chdir(copy)
    if session.posargs:
        text = pathlib.Path(config).read_text("utf-8")
        modules = f"module-path = {json.dumps(session.posargs)}\n"
        text = re.sub(r"(?s)module-path = \[.*?\]\n", modules, text)
        pathlib.Path(config).write_text(text, "utf-8")
    session.run("cosmic-ray", "init", config, "mutants.sqlite")
    session.run("cr-filter-operators", "mutants.sqlite", config)
    env = {**QUIET, "PYTHONPATH": "."}  # the copy, not what is installed
    session.run("cosmic-ray", "exec", config, "mutants.sqlite", env=env)
    session.run("cr-report", "--surviving-only", "--show-diff", "mutants.sqlite")


@nox.session(venv_backend="none")
def matrix(session: nox.Session) -> None:
    """Tests every version, and writes the table of docs/reliability.md."""
    rows = [["TensorFlow", "Python", "passed", "skipped", "failed"], ["---"] * 5]
    for name in VERSIONS:
        command = ["nox", "-s", f"tests({name})", "--", *session.posargs]
        output = session.run(*command, silent=True, success_codes=[0, 1], external=True)
        session.log(output)
        versions = re.search(r"^TensorFlow (\S+), Python (\S+)$", output, re.MULTILINE)
        summary = re.findall(r"^.*\d (?:passed|failed).* in .*s.*$", output, re.MULTILINE)[-1]
        counts = re.findall(r"(\d+) (passed|skipped|failed)", summary)
        found = {word: int(number) for number, word in counts}
        rows.append([*versions.groups()])
        rows[-1] += [f"{found.get(word, 0):,}" for word in ("passed", "skipped", "failed")]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    page = pathlib.Path("docs/reliability.md")
    new = rf"\1\n{table}\n\nRun on {datetime.date.today()}.\n\n\2"
    text, found = re.subn(
        r"(?s)(<!-- matrix -->\n).*(<!-- /matrix -->)", new, page.read_text("utf-8")
    )
    if found != 1:
        session.error(f"{page}: expected one table between the marks of matrix, found {found}")
    page.write_text(text, "utf-8")
    session.log(table)
