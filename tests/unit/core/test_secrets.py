"""No message has a password, wherever it came from."""

import pytest

from pipeline.commands import app
from pipeline.core.errors import UserError, mask_secrets, one_line


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET http://anna:se/cr@et@host:5000/api?x=1 failed", "GET http://***@host:5000/api?x=1 failed"),
        ("https://ghp_token@github.com/x", "https://***@github.com/x"),
        (
            "postgresql://host/runs?password=secret&sslmode=require",
            "postgresql://host/runs?password=***&sslmode=require",
        ),
        # no secret
        ("https://host/models/name@v1", "https://host/models/name@v1"),
        ("http://127.0.0.1:5000/#/experiments", "http://127.0.0.1:5000/#/experiments"),
        ("write to anna@example.org", "write to anna@example.org"),
    ],
)
def test_the_user_of_an_address_is_masked(text, masked):
    assert mask_secrets(text) == masked


def test_a_message_is_cut_only_after_its_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "brackish-lantern")
    message = one_line(ValueError("refused:\nbrackish-lantern of anna"), 20)
    assert message == "refused: *** of anna"
    assert "brack" not in one_line(ValueError("brackish-lantern"), 5)


def test_the_error_line_of_a_command_has_no_password(monkeypatch, capsys):
    def fail(_arguments):
        raise UserError("no remote https://anna:secret@host/data")

    monkeypatch.setattr(app, "_invoke", fail)
    assert app.run_command([]) == 1
    assert capsys.readouterr().err == "error: no remote https://***@host/data\n"
