"""Progress in a log file: whole lines with rate and time left, no carriage returns."""

from pipeline.core.progress import progress_bar


def test_a_log_file_gets_whole_lines(capsys):
    with progress_bar(4, label="training", unit="steps", initial=1) as bar:
        for _ in range(3):
            bar.update()
            bar.refresh()
    output = capsys.readouterr().err
    assert "\r" not in output
    lines = output.splitlines()
    assert lines[-1].startswith("training: 100%")
    assert "4/4" in lines[-1]
    assert "steps" in lines[-1]


def test_a_disabled_bar_shows_nothing(capsys):
    with progress_bar(4, label="training", unit="steps", enabled=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
