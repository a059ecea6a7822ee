"""Names become folders, files and parts of commands: `check` refuses those that would fail there."""

import re
import shutil

import pytest

from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.workflow import plan_run
from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.reading import PARAMS, parse_card, read_card
from pipeline.params.studies import StudyCard
from pipeline.study.checks import check_study_card

BAD_NAMES = [
    "few/shot",
    "lora r8",
    "it's",
    "$(touch x)",
    "x{y}",
    "",
    ".hidden",
    "-r8",
    "bare",
    "Bare",
    "shots",
]
BAD_NAMES += ["über", "straße", "a\nb", "n" * 65, "0123456789ab", "lora-0123456789ab"]
RULE = "letters, digits, '.', '_' and '-'"
TASKS = {"training_set": "world-math", "tasks": ["world-addsub"]}


def check(**changes) -> None:
    card = read_card("study", "quickstart").model_dump() | {"models": ["tiny-llama"], "methods": ["lora"]}
    card |= {"arms": [{"name": "a", **TASKS}], **changes}
    check_study_card(parse_card(StudyCard, card, where="params/study/s.yaml"), where="params/study/s.yaml")


def refusal(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_breaks_as_a_path_is_refused_with_the_rule(name):
    message = refusal(lambda: check(arms=[{"name": name, **TASKS}]))
    assert message.startswith("params/study/s.yaml: arms.0.name: ")
    assert RULE in message
    assert repr(name)[:20] in message
    message = refusal(lambda: check(methods=["lora", {"method": "lora", "label": name}]))
    assert message.startswith("params/study/s.yaml: methods.1.label: ")


def test_names_of_the_rule_pass():
    check(arms=[{"name": "few_shot-v1.5", **TASKS}], methods=[{"method": "lora", "label": "r8.e-3"}])


@pytest.mark.parametrize("kind", ["methods", "models", "datasets", "protocols", "study"])
def test_names_of_cards_follow_the_same_rule(kind, tmp_path, monkeypatch):
    shutil.copytree(PARAMS / kind, tmp_path / kind)
    card = next((tmp_path / kind).glob("*.yaml"))
    shutil.copy(card, tmp_path / kind / "a b.yaml")
    monkeypatch.setattr(reading, "PARAMS", tmp_path)
    message = refusal(lambda: read_card.__wrapped__(kind, "a b"))
    assert message.startswith(f"params/{kind}: 'a b': ")
    assert RULE in message
    # not a path to another card
    assert RULE in refusal(lambda: read_card.__wrapped__(kind, f"../{kind}/{card.stem}"))


def test_a_protocol_is_called_as_its_file(tmp_path, monkeypatch):
    shutil.copytree(PARAMS / "protocols", tmp_path / "protocols")
    shutil.copy(PARAMS / "protocols/strict.yaml", tmp_path / "protocols/mine.yaml")
    monkeypatch.setattr(reading, "PARAMS", tmp_path)
    message = refusal(lambda: read_card.__wrapped__("protocols", "mine"))
    assert message.startswith(
        "params/protocols/mine.yaml: name: must be 'mine', the name of the file (got 'strict')"
    )


@pytest.mark.parametrize("split", ["test set", "te/st", "te\nst"])
def test_names_of_splits_follow_the_same_rule(split):
    card = read_card("datasets", "world-addsub").model_dump()
    card["splits"] = {split: card["splits"]["test"]}
    message = refusal(lambda: parse_card(reading.CARDS["datasets"], card, where="params/datasets/d.yaml"))
    assert message.startswith("params/datasets/d.yaml: splits.")
    assert RULE in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [{"name": "a", **TASKS}, {"name": "A", **TASKS}]}, "arms: 'a' is repeated"),
        (
            {"arms": [{**TASKS, "name": "a", "tasks": ["world-svamp", "world-svamp"]}]},
            "arms.a: tasks: 'world-svamp' is repeated",
        ),
    ],
)
def test_names_are_unique_where_they_must_be(changes, message):
    assert message in refusal(lambda: check(**changes))


def copy_params(tmp_path, monkeypatch, **copies):
    """A copy of params/ with copies of cards, KIND__NAME -> name of the copy, and the rest of the card's changes."""
    shutil.copytree(PARAMS, tmp_path / "params")
    for place, (name, old, new) in copies.items():
        kind, source = place.split("__")
        text = (PARAMS / kind / f"{source.replace('_', '-')}.yaml").read_text()
        assert old in text
        (tmp_path / "params" / kind / f"{name}.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(reading, "PARAMS", tmp_path / "params")
    read_card.cache_clear()


@pytest.fixture(autouse=True)
def _forget_cards():
    yield
    read_card.cache_clear()


def test_a_task_and_a_protocol_that_make_the_name_of_others_are_refused(tmp_path, monkeypatch):
    """Answers to task a-b under protocol c would lie in the file of task a under b-c."""
    copies = {
        "datasets__world_svamp": ("world-svamp-new", "title: SVAMP (world)", "title: SVAMP (new)"),
        "protocols__strict": ("new-strict", "name: strict", "name: new-strict"),
    }
    copy_params(tmp_path, monkeypatch, **copies)
    arms = [{**TASKS, "name": "a", "tasks": ["world-svamp", "world-svamp-new"]}]
    message = refusal(lambda: check(arms=arms, protocols=["strict", "new-strict"]))
    assert "'world-svamp' under 'new-strict' and 'world-svamp-new' under 'strict'" in message
    arms = [{**TASKS, "name": name} for name in ("few", "few-new")]
    assert "'few' under 'new-strict' and 'few-new' under 'strict'" in refusal(
        lambda: check(arms=arms, protocols=["strict", "new-strict"])
    )


@pytest.mark.parametrize(
    ("place", "copy", "changes", "message"),
    [
        (
            "datasets__world_svamp",
            ("mine", "name: world-svamp", "name: mine"),
            {"arms": [{**TASKS, "name": "a", "tasks": ["world-svamp", "mine"]}]},
            "params/study/s.yaml: tasks: 'world-svamp' and 'mine' have the title",
        ),
        (
            "models__tiny_llama",
            ("mine", "kind:", "kind:"),
            {"models": ["tiny-llama", "mine"]},
            "params/study/s.yaml: models: 'tiny-llama' and 'mine' have the title",
        ),
        (
            "methods__lora",
            ("mine", "kind:", "kind:"),
            {"methods": ["lora", {"method": "mine", "r": 4}]},
            "params/study/s.yaml: methods: 'lora' and 'mine' have the title",
        ),
    ],
)
def test_rows_and_columns_of_one_title_are_refused(place, copy, changes, message, tmp_path, monkeypatch):
    copy_params(tmp_path, monkeypatch, **{place: copy})
    assert message in refusal(lambda: check(**changes))


@pytest.mark.parametrize("name", [0, 7, "../study/quickstart", "a b"])
def test_a_study_that_is_no_name_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        plan_run({"study": name}, root=tmp_path, engine=Engine())
    assert re.match(
        r"error: params/study: (no '\w*|'\.\./study/quickstart': a name has |no 'a b)", str(stop.value)
    )


def test_every_shipped_name_follows_the_rule():
    for path in sorted((PARAMS / "study").glob("*.yaml")):
        check_study_card(read_card("study", path.stem), where=path.name)
    for kind in ("methods", "models", "datasets", "protocols", "published"):
        for path in (PARAMS / kind).glob("*.yaml"):
            read_card(kind, path.stem)
