"""`make results` installs no optional package, so no module of the pipeline may need one to be imported."""

import ast
import re
import tomllib

from tests.conftest import ROOT

# packages of the extras whose modules have other names
MODULES = {
    "dvc-s3": "dvc_s3",
    "lm-eval": "lm_eval",
    "math-verify": "math_verify",
    "import-linter": "importlinter",
}


def optional_modules() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = {
        requirement.partition("=")[0].partition("[")[0]
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    }
    # an extra of a package that the project needs anyway, such as mlflow[auth], makes it no optional one
    required = {re.split(r"[=<>\[]", requirement)[0] for requirement in project["dependencies"]}
    return {MODULES.get(package, package.replace("-", "_")) for package in packages - required}


def modules_at_import(tree: ast.Module) -> set[str]:
    """Return the packages that are imported when a module is, those within functions left out."""
    names = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            names.add(statement.module.partition(".")[0])
    return names


def test_no_module_imports_an_optional_package_when_it_is_imported():
    optional = optional_modules()
    assert {"bitsandbytes", "gguf", "pytest"} <= optional
    needed = {
        path.relative_to(ROOT).as_posix(): names
        for path in (ROOT / "pipeline").rglob("*.py")
        if (names := modules_at_import(ast.parse(path.read_text(encoding="utf-8"))) & optional)
    }
    assert needed == {}
